// Questions, predictions and moving figures of a page. Their data stand beside them as JSON (docs/site/forms.py); what is said
// comes from COURSE_WORDS. The judging is that of course_utils/learn/questions; tests/site compares the two.
(() => {
  const words = (key, values = {}) => (window.COURSE_WORDS[key] || key).replace(/\{(\w+)\}/g, (_, name) => values[name]);

  const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?/i;
  const parseNumber = (given, unit) => {
    let text = given.normalize("NFKC").replaceAll("−", "-").replaceAll("×10^", "e").trim();
    text = text.replace(/(?<![\d.,])\d{1,3}(,\d{3})+(?![\d,])/g, found => found.replaceAll(",", "")).replace(/(?<=\d),(?=\d)/g, ".");
    const found = text.match(NUMBER);
    if (!found) return [null, words("no_number")];
    let number = Number(found[0]), rest = text.slice(found[0].length).trim();
    const fraction = rest.match(/^\/\s*(\d+\.?\d*)/);
    if (fraction) {
      if (!Number(fraction[1])) return [null, words("no_number")];
      number /= Number(fraction[1]);
      rest = rest.slice(fraction[0].length).trim();
    }
    if (rest && rest.toLowerCase() !== unit.normalize("NFKC").toLowerCase())
      return [null, unit ? words("wrong_unit", {unit}) : words("no_number")];
    return Number.isFinite(number) ? [number, ""] : [null, words("no_number")];
  };
  const near = (number, target, tolerance) => Math.abs(number - target) <= tolerance * (Math.abs(target) || 1) * (1 + 1e-12);
  const howFar = (number, expected, tolerance) => {
    if (near(number, -expected, tolerance)) return words("wrong_sign");
    if (number * expected > 0) {
      const power = Math.round(Math.log10(number / expected));
      if (power && near(number / 10 ** power, expected, tolerance)) return words("power_of_ten");
    }
    return words(number > expected ? "too_large" : "too_small");
  };

  // The answer that a form holds: {value} or {problem}.
  const read = (form, data) => {
    const kind = {number: "numeric", order: "ordering"}[data.kind] || data.kind;
    if (kind === "choice") {
      const chosen = form.querySelector("input:checked");
      return chosen ? {value: Number(chosen.value)} : {problem: words("choose_first")};
    }
    if (kind === "numeric") {
      const given = form.querySelector("input").value.trim();
      if (!given) return {problem: words("choose_first")};
      const [value, problem] = parseNumber(given, data.unit || "");
      return problem ? {problem} : {value};
    }
    const values = [...form.querySelectorAll("select")].map(field => field.value);
    if (values.includes("")) return {problem: words("choose_first")};
    return new Set(values).size < values.length ? {problem: words("each_once")} : {value: values.map(Number)};
  };

  // [right, why] of an answer to a question.
  const judge = (data, value) => {
    if (data.kind === "choice") return [data.options[value].right, data.options[value].why];
    if (data.kind === "numeric") {
      if (near(value, data.expected, data.tolerance)) return [true, data.why];
      const known = data.near.find(one => near(value, one.value, one.tolerance));
      return [false, known ? known.why : `<p>${howFar(value, data.expected, data.tolerance)}</p>`];
    }
    const place = data.order.findIndex((item, i) => item !== value[i]);
    if (place < 0) return [true, data.why];
    return [false, `<p>${place ? words("look_at_place", {place: place + 1}) : words("look_at_first")}</p>`];
  };

  // [right, sentence] of a guess, once the measurement is known.
  const compare = (data, guess) => {
    if (data.kind === "number") {
      if ("within" in data || guess * data.truth <= 0) {
        const apart = Math.abs(guess - data.truth), right = apart <= (data.within || 0);
        return [right, right ? words("guess_right") : words("guess_apart", {difference: `${Number(apart.toPrecision(2))} ${data.unit || ""}`.trim()})];
      }
      const ratio = Math.abs(Math.log(guess / data.truth)), right = ratio <= Math.log1p(data.tolerance) * (1 + 1e-12);
      return [right, right ? words("guess_near", {percent: Number((100 * data.tolerance).toPrecision(3))})
                           : words("guess_factor", {factor: Number(Math.exp(ratio).toPrecision(3))})];
    }
    const place = {};
    if (data.kind === "order") data.truth.forEach((group, i) => group.forEach(item => { place[item] = i; }));
    const right = data.kind === "choice" ? guess === data.truth : guess.every((item, i) => !i || place[guess[i - 1]] <= place[item]);
    return [right, words(right ? "guess_right" : "guess_wrong")];
  };

  const say = (form, kind, title, body = "") => {
    const said = form.querySelector(".course-said");
    said.innerHTML = `<div class="course-box course-${kind}"><b></b>${body}</div>`;
    said.querySelector("b").textContent = title;
    window.MathJax?.typesetPromise?.([said]);
  };

  const guessed = (form, data, value) => {
    const shown = data.kind === "number" ? `${value} ${data.unit || ""}`.trim()
      : [value].flat().map(i => data.kind === "order" ? form.querySelector("select").options[i + 1].textContent
                                                       : form.querySelectorAll(".course-option span")[i].textContent).join(", ");
    const kept = words("prediction_kept", {guess: shown}).replaceAll("**", "");
    const [right, said] = compare(data, value);
    say(form, right ? "right" : "hint", kept, `<p>${said}</p>`);
    document.querySelectorAll(`.${CSS.escape(data.result)} details`).forEach(part => { part.open = true; });
  };

  const start = form => {
    const data = JSON.parse(form.querySelector("script").textContent);
    form.addEventListener("submit", event => {
      event.preventDefault();
      const {value, problem} = read(form, data);
      if (problem) return say(form, "note", problem);
      if (data.prediction) return guessed(form, data, value);
      const [right, why] = judge(data, value);
      say(form, right ? "right" : "wrong", words(right ? "question_right" : "question_wrong"), why);
    });
  };

  const move = widget => {
    const data = JSON.parse(widget.querySelector("script").textContent), picture = widget.querySelector("img");
    const fields = [...widget.querySelectorAll("input, select")];
    const at = field => field.type === "checkbox" ? Number(field.checked) : Number(field.value);
    const put = (field, place) => { if (field.type === "checkbox") field.checked = Boolean(place); else field.value = place; };
    const told = field => {
      if (field.type !== "range") return;
      const value = JSON.parse(field.dataset.values)[at(field)];
      field.nextElementSibling.textContent = value;
      field.setAttribute("aria-valuetext", value);
    };
    const moved = which => {
      let frame = 0;
      if (data.together) fields.forEach((field, i) => { frame = frame * data.counts[i] + at(field); });
      else {
        fields.forEach((field, i) => { if (i !== which) put(field, data.first[i]); });
        frame = data.counts.slice(0, which).reduce((sum, count) => sum + count, 0) + at(fields[which]);
      }
      fields.forEach(told);
      picture.src = picture.parentElement.href = data.frames[frame];  // a phone opens the picture alone
      picture.alt = data.alts[frame];
    };
    fields.forEach((field, i) => {
      put(field, data.first[i]);  // a browser that comes back to a page puts back what it remembers
      told(field);
      field.addEventListener("input", () => moved(i));
    });
    const ahead = () => { [...new Set(data.frames)].forEach(frame => { new Image().src = frame; }); };
    new IntersectionObserver((seen, watcher) => { if (seen.some(one => one.isIntersecting)) { watcher.disconnect(); ahead(); } }).observe(widget);
  };

  document.querySelectorAll(".course-form").forEach(start);
  document.querySelectorAll(".course-widget").forEach(move);
  const reach = () => document.querySelectorAll(".bd-article pre, .bd-article .text_html, .bd-article table, .bd-article mjx-container").forEach(part => {
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;  // a keyboard can move what is wider than the page
  });
  reach();
  addEventListener("load", () => window.MathJax?.startup?.promise?.then(reach));
  let resized;
  addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(reach, 500); });  // after the theme's own, at 300
  window.course = {parseNumber, judge, compare};
})();
