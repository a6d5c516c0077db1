"""`openai.embeddings`: vectors for texts."""

from array import array
from base64 import b64encode
from typing import Any, Final

import msgspec

from protocol.methods.openai import EMBEDDINGS, BodyParams
from protocol.models import EmbedAnswer, EmbedRequest
from worker.dispatch import CallContext, handles
from worker.openai import reading, shapes
from worker.openai.bodies import EmbeddingBody

METHOD: Final = "embed"
_decoder: Final = msgspec.json.Decoder(EmbeddingBody)
_decode: Final = msgspec.json.Decoder(EmbedAnswer).decode


@handles(EMBEDDINGS)
async def embed(call: CallContext, params: BodyParams) -> Any:
    """Give a vector for each text."""
    body = reading.body(_decoder, params.body)
    shapes.session_key(params.session_key)
    request = EmbedRequest(model=body.model, texts=texts(body.input), dimensions=body.dimensions)
    answer = _decode(await call.services.egress.call(METHOD, request))
    written = _base64 if body.encoding_format == "base64" else list
    used = shapes.prompt_tokens(answer.spent)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": written(vector)}
            for index, vector in enumerate(answer.vectors)
        ],
        "model": answer.model,
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }


def texts(given: str | tuple[str | int | tuple[int, ...], ...]) -> tuple[str, ...]:
    """Give what is to be embedded. Raises INVALID_REQUEST for tokens and for nothing at all."""
    if isinstance(given, str):
        given = (given,)
    found = []
    for index, text in enumerate(given):
        if not isinstance(text, str):
            reading.refuse(f"input[{index}]", "tokens are not taken; send the text")
        if not text:
            reading.refuse(f"input[{index}]", "must not be empty")
        found.append(text)
    return tuple(found)


def _base64(vector: tuple[float, ...]) -> str:
    """Give a vector as OpenAI packs it: float32, little-endian, base64."""
    return b64encode(array("f", vector).tobytes()).decode()
