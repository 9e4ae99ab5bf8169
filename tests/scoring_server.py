"""A server of chat completions and embeddings on loopback, with files and batches, that misbehaves on request.

A test runs it in a thread: ``with ScoringServer(["500", None]) as server``. A benchmark runs it in a process of its
own: ``python -m tests.scoring_server --latency 0.5`` prints its address and serves until it is stopped.
"""

import argparse
import asyncio
import base64
import collections
import json
import math
import re
import threading
import time
import zlib
from dataclasses import dataclass, field

import numpy as np
from aiohttp import web

_CANDIDATE = re.compile(r'^"(\d+)": (".*?"),?$', re.MULTILINE)


def score_of(title):
    """The server's opinion of a title, 0.00 to 1.00, whoever asks and in whatever place it stands."""
    return zlib.crc32(title.encode()) % 101 / 100


def candidates_of(messages):
    """Label -> title, read from the prompt as a model would."""
    prompt = next(message["content"] for message in messages if message["role"] == "user")
    return {label: json.loads(title) for label, title in _CANDIDATE.findall(prompt)}


def is_about_texts(messages):
    """Whether a prompt asks for a text."""
    return '{"text": ' in next(message["content"] for message in messages if message["role"] == "user")


def is_yes_no(messages):
    """Whether a prompt asks for a yes or no."""
    return "Yes or No" in next(message["content"] for message in messages if message["role"] == "user")


def chance_of_yes(messages):
    """The server's opinion of the one item of a yes/no question, which stands behind the history."""
    prompt = next(message["content"] for message in messages if message["role"] == "user")
    return score_of(json.loads(re.findall(r'^(".*")$', prompt, re.MULTILINE)[-1]))


def text_of(messages):
    """The text that the server writes: the titles that it was shown, and a number of its own."""
    prompt = next(message["content"] for message in messages if message["role"] == "user")
    titles = [json.loads(title) for title in re.findall(r'^(?:"[^"]+": )?(".*?"),?$', prompt, re.MULTILINE)]
    return f"Opinion {zlib.crc32(prompt.encode())} about {' and '.join(titles)}."


def text_content(messages, kind):
    """The model's text on a user or item, good unless `kind` is one of the ways of being bad."""
    text = text_of(messages)
    good = json.dumps({"text": text})
    number = zlib.crc32(json.dumps(messages).encode())
    return {
        "profile": json.dumps({"text": f"Identity: reader {number}, collector; Interests: chess,sea ."}),
        "prose": f"Of course!\n```json\n{good}\n```\nAnything else?",
        "plain": text,
        "controls": json.dumps({"text": f"\x1b[31m{text}\u202e\x00\r\nEnd."}),
        "markup": json.dumps({"text": f"<script>alert(1)</script> {text}"}),
        "garbage": '{"answer": [7]}',
        "refusal": "I'm sorry, but I can't help with that.",
        "declined": "Such a user is not described.",
        "blank": json.dumps({"text": " \u200b\n..."}),
        "empty": "",
        "too long": json.dumps({"text": "so " * 1000}),
        "surrogate": good[:-2] + '\ud800"}',
        "cut off": good[:-2],
    }.get(kind, good)


@dataclass
class Seen:
    """One request for a completion, as it came in."""

    body: dict
    headers: dict
    path: str = ""
    time: float = field(default_factory=time.monotonic)

    @property
    def text(self):
        return json.dumps(self.body["messages"])


def content(messages, kind):
    """The model's text, good unless `kind` is one of the ways of being bad."""
    if is_about_texts(messages):
        return text_content(messages, kind)
    if is_yes_no(messages):
        return {"garbage": "I would rather not judge it.", "thoughts": "<think>No.</think>\nYes."}.get(
            kind, "Yes" if chance_of_yes(messages) >= 0.5 else "No"
        )
    scores = {label: score_of(title) for label, title in candidates_of(messages).items()}
    good = json.dumps({"scores": scores})
    if any('{"ranking": [' in message["content"] for message in messages):
        return json.dumps({"ranking": [int(label) for label in sorted(scores, key=scores.get, reverse=True)]})
    labels = list(scores)
    return {
        "prose": f'Sure! {{"1": "maybe"}} is not it, but\n```json\n{good}\n```\nHope that helps {{you}}.',
        "wrong ids": json.dumps({"scores": scores | {"999": 0.9, "i3": 0.9, "-1": 0.1}}),
        "duplicates": good[:-2] + f', "{labels[0]}": 0.123}}}}',
        "extreme": json.dumps({"scores": scores | {labels[0]: 1e308}}),
        "negative": json.dumps({"scores": scores | {labels[0]: -0.01}}),
        "nan": good.replace(str(scores[labels[0]]), "NaN", 1),
        "garbage": "I would rather not judge these items.",
        "empty": "",
        "surrogate": good[:-1] + ', "note": "\ud800"}',
        "cut off": good[: len(good) * 2 // 3],
        "leaves one out": json.dumps({"scores": {label: scores[label] for label in labels[1:]}}),
    }.get(kind, good)


class Bucket:
    """A quota of requests a minute: a bucket of tokens that fills up evenly and holds `burst`."""

    def __init__(self, per_minute, burst, *, headers=False, retry_after=False):
        self.rate, self.burst, self.level, self.time = per_minute / 60, burst, burst, time.monotonic()
        self.headers, self.retry_after = headers, retry_after

    def take(self):
        """Return whether a request is granted, and what a response tells of the quota."""
        now = time.monotonic()
        self.level, self.time = min(self.burst, self.level + (now - self.time) * self.rate), now
        granted = self.level >= 1
        self.level -= granted
        told = {}
        if self.headers:
            told = {"limit": self.burst, "remaining": int(self.level)}
            told["reset"] = f"{(self.burst - self.level) / self.rate:.3f}s"
            told = {f"x-ratelimit-{name}-requests": str(value) for name, value in told.items()}
        if self.retry_after and not granted:
            told["Retry-After"] = str(math.ceil((1 - self.level) / self.rate))
        return granted, told


class ScoringServer:
    """`plan` names how each of the first requests is treated, None for well; or is a function of (number, body).

    A pair of a status and a body (text or JSON values) is sent back as it is.
    """

    def __init__(self, plan=(), *, latency=0.0, port=0, usage=True, refuses_formats=()):
        self.plan = plan if callable(plan) else lambda number, body: plan[number] if number < len(plan) else None
        self.latency, self.usage, self.refuses_formats = latency, usage, refuses_formats
        self.seen: list[Seen] = []
        self.answered = collections.Counter()  # text of the messages -> completions sent in full
        self.in_flight = self.most_in_flight = self.n_seen = 0
        self.remember = True
        self.quota = None
        self.files, self.batches = {}, {}
        self.batch_plan = {}  # what goes wrong with batches: see _make_batch
        self._port, self._ready = port, threading.Event()

    # -- running ---------------------------------------------------------------------------------------------------

    def __enter__(self):
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(300), "the server does not start"
        return self

    def __exit__(self, *error):
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(30)

    async def serve(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        application = web.Application(client_max_size=2**30)
        application.add_routes(
            [
                web.post("/v1/chat/completions", self._complete),
                web.post("/v1/embeddings", self._embed),
                web.get("/v1/attempts", self._attempts),
                web.post("/v1/files", self._upload),
                web.get("/v1/files/{id}/content", self._download),
                web.post("/v1/batches", self._make_batch),
                web.get("/v1/batches/{id}", self._show_batch),
                web.get("/v1/batches", self._list_batches),
            ]
        )
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self._port, backlog=2048)
        await site.start()
        self.base_url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    # -- embeddings ------------------------------------------------------------------------------------------------

    async def _embed(self, request):
        """As `_complete`, without quota; what it answers counts in `answered` text by text."""
        body = await request.json()
        number, self.n_seen = self.n_seen, self.n_seen + 1
        self.seen.append(Seen(body, dict(request.headers), request.path_qs))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency)
            kind = self.plan(number, body)
            if kind == "no base64" and "encoding_format" in body:
                return _error(400, "base64 encoding is not currently supported")
            if isinstance(kind, tuple) or (kind or "").partition(":")[0] in ("429", "500", "hang", "401", "404", "400"):
                return await self._respond(request, body, kind)
        finally:
            self.in_flight -= 1
        for text in body["input"]:
            self.answered[text] += 1
        return web.json_response(embeddings(body, kind, usage=self.usage))

    # -- chat completions ------------------------------------------------------------------------------------------

    async def _complete(self, request):
        body = await request.json()
        number, self.n_seen = self.n_seen, self.n_seen + 1
        if self.remember:
            self.seen.append(Seen(body, dict(request.headers), request.path_qs))
        headers = {}
        if self.quota is not None:
            granted, headers = self.quota.take()
            if not granted:
                return _error(429, "slow down", headers=headers)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.latency:
                await asyncio.sleep(self.latency)
            response = await self._respond(request, body, self.plan(number, body))
        finally:
            self.in_flight -= 1
        if self.remember and response.status == 200:
            self.answered[json.dumps(body["messages"])] += 1
        response.headers.update(headers)
        return response

    async def _attempts(self, request):
        return web.Response(text=str(self.n_seen))

    async def _respond(self, request, body, kind):
        wanted = (body.get("response_format") or {}).get("type")
        if wanted in self.refuses_formats:
            return _error(400, f"response_format {wanted} is not supported by this model", param="response_format")
        if isinstance(kind, tuple):  # status and body as they are to be: text, or JSON values
            status, said = kind
            text = said if isinstance(said, str) else json.dumps(said)
            return web.Response(status=status, text=text, content_type="application/json")
        kind, _, detail = (kind or "").partition(":")
        if kind == "429":
            return _error(429, "slow down", headers={"Retry-After": detail} if detail else {})
        if kind in ("500", "502", "503"):
            return _error(int(kind), "something broke")
        if kind == "hang":
            await asyncio.sleep(float(detail or 60))
        if kind == "401":
            key = request.headers["Authorization"]
            return _error(401, f"Incorrect API key provided: {key} of org-SECRETORG1", code="invalid_api_key")
        if kind == "quota":
            return _error(429, "You exceeded your current quota", code="insufficient_quota")
        if kind == "404":
            return _error(404, f"The model {body['model']} does not exist", code="model_not_found")
        if kind == "400":
            return _error(400, "this prompt is not to our liking", code="content_filter")
        if kind == "max_tokens" and "max_tokens" in body:
            return _error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if kind == "cut":
            request.transport.close()
            return web.Response()
        named = f"{kind}:{detail}" if kind == "thinks" else kind
        payload = completion(body, named, usage=self.usage, number=self.n_seen)
        if kind == "half a body":
            text = json.dumps(payload)
            response = web.StreamResponse(
                headers={"Content-Length": str(len(text)), "Content-Type": "application/json"}
            )
            await response.prepare(request)
            await response.write(text[: len(text) // 2].encode())
            request.transport.close()
            return response
        if kind == "bad json":
            return web.Response(text=json.dumps(payload)[:-20], content_type="application/json")
        if kind == "html":
            return web.Response(text="<html>Welcome to the portal</html>", content_type="text/html")
        if kind == "no choices":
            return web.json_response(payload | {"choices": []})
        if kind == "null":
            return web.json_response(None)
        if kind == "deep":
            return web.Response(text="[" * 100_000 + "]" * 100_000, content_type="application/json")
        if kind == "echo key":
            payload["choices"][0]["message"]["content"] += request.headers["Authorization"]
        return web.json_response(payload)

    # -- files and batches -----------------------------------------------------------------------------------------

    async def _upload(self, request):
        form = await request.post()
        identifier = f"file-{len(self.files)}"
        self.files[identifier] = form["file"].file.read()
        return web.json_response(_file(identifier, len(self.files[identifier]), form["purpose"]))

    async def _download(self, request):
        return web.Response(body=self.files[request.match_info["id"]])

    async def _make_batch(self, request):
        """batch_plan: polls (until done), fails (custom_id -> bool), expires (how many answers come), cut,
        rejected (file -> why, None if it is taken), queue (the most requests that a batch may have), words (about a
        larger one), refuses_at_once (a larger one)."""
        body = await request.json()
        if self.batch_plan.get("refuses_at_once") and self._too_many(body["input_file_id"]):
            return _error(429, "Enqueued token limit reached for tiny. Please try again later.")
        identifier = f"batch_{len(self.batches)}"
        self.batches[identifier] = {
            "id": identifier,
            "object": "batch",
            "endpoint": body["endpoint"],
            "input_file_id": body["input_file_id"],
            "completion_window": body["completion_window"],
            "metadata": body.get("metadata"),
            "created_at": 0,
            "status": "validating",
            "polls": 0,
        }
        if self.batch_plan.pop("cut", False):
            request.transport.close()
        return web.json_response(self._public(identifier))

    async def _list_batches(self, request):
        return web.json_response(
            {"object": "list", "data": [self._public(name) for name in reversed(self.batches)], "has_more": False}
        )

    async def _show_batch(self, request):
        batch = self.batches[request.match_info["id"]]
        batch["polls"] += 1
        if batch["status"] in ("validating", "in_progress"):
            batch["status"] = "in_progress"
            rejected = self.batch_plan.get("rejected", lambda file: None)(self.files[batch["input_file_id"]])
            if rejected:
                batch |= {"status": "failed", "errors": {"data": [{"code": "x", "message": rejected}]}}
            elif self._too_many(batch["input_file_id"]):
                problem = {"code": "token_limit_exceeded", "message": self.batch_plan.get("words", "Too much waits.")}
                batch |= {"status": "failed", "errors": {"data": [problem]}}
            elif batch["polls"] >= self.batch_plan.get("polls", 2):
                self._finish_batch(batch)
        return web.json_response(self._public(batch["id"]))

    def _too_many(self, file):
        return len(self.files[file].splitlines()) > self.batch_plan.get("queue", math.inf)

    def _finish_batch(self, batch):
        fails = self.batch_plan.get("fails", lambda custom_id: False)
        most = self.batch_plan.pop("expires", None)
        good, bad = [], []
        for number, line in enumerate(self.files[batch["input_file_id"]].decode().splitlines()):
            entry = json.loads(line)
            self.n_seen += 1
            self.seen.append(Seen(entry["body"], {}))
            if most is not None and number >= most:
                error = {"code": "batch_expired", "message": "This request could not be executed in time."}
                bad.append({"custom_id": entry["custom_id"], "response": None, "error": error})
            elif fails(entry["custom_id"]):
                body = {"error": {"message": "try again", "code": "server_error"}}
                bad.append({"custom_id": entry["custom_id"], "response": {"status_code": 500, "body": body}})
            elif isinstance(kind := self.plan(self.n_seen - 1, entry["body"]), tuple):
                response = {"status_code": kind[0], "body": kind[1]}
                bad.append({"custom_id": entry["custom_id"], "response": response, "error": None})
            else:
                body = completion(entry["body"], kind, usage=True, number=number)
                good.append({"custom_id": entry["custom_id"], "response": {"status_code": 200, "body": body}})
                self.answered[json.dumps(entry["body"]["messages"])] += 1
        batch["status"] = "completed" if most is None else "expired"
        for name, lines in (("output_file_id", good[::-1]), ("error_file_id", bad)):
            if lines:  # in any order, as the real one does
                batch[name] = f"file-{len(self.files)}"
                self.files[batch[name]] = "".join(json.dumps(line) + "\n" for line in lines).encode()

    def _public(self, identifier):
        return {name: value for name, value in self.batches[identifier].items() if name != "polls"}


def vector_of(text, dimensions=8):
    """The server's vector of a text, whatever it is sent with: float32 that need all their digits."""
    numbers = np.random.default_rng(zlib.crc32(text.encode())).normal(size=dimensions)
    return numbers.astype(np.float32)


def embeddings(body, kind, *, usage):
    """OpenAI's list of embeddings, good unless `kind` is one of the ways of being bad."""
    dimensions = body.get("dimensions", 8)
    data = []
    for index, text in enumerate(body["input"]):
        vector = vector_of(text, dimensions)
        as_text = body.get("encoding_format") == "base64" and kind != "numbers"
        sent = base64.b64encode(vector.tobytes()).decode() if as_text else vector.tolist()
        data.append({"object": "embedding", "index": index, "embedding": sent})
    last = data[-1]
    if kind == "one missing":
        data.pop()
    elif kind == "one longer":
        last["embedding"] = vector_of(body["input"][-1], dimensions + 1).tolist()
    elif kind == "all longer":
        for entry, text in zip(data, body["input"], strict=True):
            entry["embedding"] = vector_of(text, dimensions + 1).tolist()
    elif kind == "nan":
        last["embedding"] = [float("nan")] * dimensions
    elif kind == "zeros":
        last["embedding"] = [0.0] * dimensions
    elif kind == "null":
        last["embedding"] = None
    elif kind == "twice":
        last["index"] = 0
    elif kind == "key":
        last["embedding"] = "sk-test-SECRETKEY-0123456789"
    payload = {"object": "list", "data": data[::-1], "model": body["model"]}  # in any order, as they may
    if kind == "no list":
        payload["data"] = {"embedding": data}
    if usage:
        tokens = sum(len(text) for text in body["input"]) // 4
        payload["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return payload


def completion(body, kind, *, usage, number):
    prompt_tokens = len(json.dumps(body["messages"])) // 4
    text = content(body["messages"], kind)
    payload = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "length" if kind == "cut off" else "stop",
            }
        ],
    }
    if kind == "declined":
        payload["choices"][0]["message"] |= {"content": None, "refusal": text}
    if body.get("logprobs") and kind != "no logprobs":
        told = yes_no_logprobs(body["messages"], text) if is_yes_no(body["messages"]) else logprobs(text)
        payload["choices"][0]["logprobs"] = {"content": told}
    if usage:
        written = int(kind[len("thinks:") :]) if (kind or "").startswith("thinks:") else len(text) // 3
        counts = {"prompt_tokens": prompt_tokens, "completion_tokens": written}
        payload["usage"] = counts | {"total_tokens": sum(counts.values())}
    return payload


def yes_no_logprobs(messages, text):
    """The written word is one token; a tenth of the probability is of other words, each of the two has two spellings.

    Text around the word, as of thoughts, is a token of its own.
    """
    yes = chance_of_yes(messages)
    shares = {"Yes": 0.6 * yes, " yes": 0.3 * yes, "No": 0.5 * (1 - yes), "NO.": 0.4 * (1 - yes), "Maybe": 0.1}
    options = [{"token": word, "logprob": math.log(share)} for word, share in shares.items() if share]
    word = "Yes" if "Yes" in text else "No"
    before, _, behind = text.rpartition(word)
    said = {"token": word, "logprob": math.log(shares[word] or 1e-9), "top_logprobs": options}
    return [{"token": before, "logprob": 0.0}, said, {"token": behind, "logprob": 0.0}]


def logprobs(text):
    """A token a character; of every digit the next one was half as likely."""
    content = []
    for character in text:
        others = [{"token": str((int(character) + 1) % 10), "logprob": math.log(0.3)}] if character.isdigit() else []
        token = {"token": character, "logprob": math.log(0.6 if others else 1.0)}
        content.append(token | {"bytes": list(character.encode()), "top_logprobs": [token, *others]})
    return content


def _error(status, message, *, headers=None, code=None, param=None):
    error = {"message": message, "type": "error", "code": code, "param": param}
    return web.json_response({"error": error}, status=status, headers=headers or {})


def _file(identifier, size, purpose):
    return {
        "id": identifier,
        "object": "file",
        "bytes": size,
        "created_at": 0,
        "filename": "batch.jsonl",
        "purpose": purpose,
        "status": "processed",
    }


def main():
    parser = argparse.ArgumentParser(description="Serve simulated chat completions on loopback.")
    parser.add_argument("--latency", type=float, default=0.5, metavar="SECONDS")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--quota", type=float, metavar="N", help="requests a minute")
    parser.add_argument("--burst", type=int, metavar="N", help="that may come at once")
    parser.add_argument("--headers", action="store_true", help="tell what is left of the quota")
    parser.add_argument("--retry-after", action="store_true")
    arguments = parser.parse_args()
    server = ScoringServer(latency=arguments.latency, port=arguments.port)
    if arguments.quota:
        told = {"headers": arguments.headers, "retry_after": arguments.retry_after}
        server.quota = Bucket(arguments.quota, arguments.burst, **told)
    server.remember = False  # memory is measured beside it

    async def serve():
        serving = asyncio.ensure_future(server.serve())
        while not server._ready.is_set():
            await asyncio.sleep(0.01)
        print(server.base_url, flush=True)
        await serving

    asyncio.run(serve())


if __name__ == "__main__":
    main()
