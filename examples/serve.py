"""A compressed model behind HTTP: python examples/serve.py [MODEL] [PORT]

    curl -d '{"prompt": "Story: Ada puts the lamp in the", "tokens": 12}' http://127.0.0.1:8000

One request at a time, on this machine only: to show how a model is used, not to serve a crowd.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

import torch

from course_utils import models, quantization


def server(source="bundled", port=8000):
    model, tokenizer = models.load(source)
    small = quantization.rtn.quantize(model, bits=4).model

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self):
            try:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                ids = torch.tensor([tokenizer(asked["prompt"])["input_ids"]])
                most = int(asked.get("tokens", 24))
                out = small.generate(input_ids=ids, max_new_tokens=most, do_sample=False)
                text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
                status, said = 200, {"text": text}
            except (KeyError, TypeError, ValueError) as error:
                status, said = 400, {"error": f'send {{"prompt": "...", "tokens": 24}}; {error!r}'}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

    return HTTPServer(("127.0.0.1", int(port)), Answers)


if __name__ == "__main__":
    server(*sys.argv[1:]).serve_forever()
