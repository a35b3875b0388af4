"""What compression cost, with intervals: python examples/evaluate.py [MODEL] [TEXT]

Perplexity alone hides much: the report has the KL to the original, the tasks, bytes in memory, and
the time for a token.
"""

import sys

from course_utils import evaluation, models, quantization


def main(source="bundled", text="bundled"):
    model, tokenizer = models.load(source)
    tasks = ("facts", "addition") if source == "bundled" else ()
    few = quantization.rtn.quantize(model, bits=3).model
    fewer = quantization.rtn.quantize(model, bits=2).model
    reports = [
        evaluation.report(m, tokenizer, tasks=tasks, n=40, text=text, windows=24)
        for m in (model, few, fewer)
    ]
    print(evaluation.compare(reports))
    return reports


if __name__ == "__main__":
    main(*sys.argv[1:])
