"""The HTTP interface without Ray: forms of a request, limits, tokens, problems."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from starlette.testclient import TestClient

from iqa_service.errors import ScorerAway, ScorerBusy, ScorerError
from iqa_service.scorers.base import Candidate
from iqa_service.scorers.consistency import ConsistentBackend
from iqa_service.scorers.daclip import Rule
from iqa_service.scorers.daclip_iqa import DaclipScorer
from iqa_service.serving.batching import ScoringService
from iqa_service.serving.http_api import make_api
from iqa_service.serving.settings import ServiceSettings


@pytest.fixture
def backend(daclip):
    return DaclipScorer(daclip, Rule(), "tiles", "test")


@pytest.fixture
def ask(backend):
    return client_of(backend)


def client_of(backend, line=None, **settings):
    service = line or ScoringService(backend)
    return TestClient(make_api(service, ServiceSettings(**settings)), "http://localhost")


def file_of(image, kind="png", **options):
    encoded = io.BytesIO()
    PIL.Image.fromarray(image).save(encoded, kind, **options)
    return encoded.getvalue()


def bomb(width, height):
    """A PNG file that claims to be huge."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def in_json(*images, **more):
    return {"images": [{"image": base64.b64encode(image).decode(), **more} for image in images]}


def in_form(*images, rainy=()):
    return [("images", (f"{n}.png", image)) for n, image in enumerate(images)] + [
        ("rainy", (f"{n}.png", image)) for n, image in enumerate(rainy)
    ]


def problem(response, status, words):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    told = response.json()
    assert told["status"] == status
    assert words in told["detail"]
    return told


def test_one_image_in_json_scores_as_in_process(ask, backend, china):
    answer = ask.post("/v1/score", json=in_json(file_of(china), id="street")).json()
    (score,) = answer["scores"]
    expected = backend.score([Candidate("x", china)])[0]
    assert (answer["scorer"], answer["fingerprint"]) == ("test", backend.fingerprint)
    assert score["id"] == "street"
    assert score["log_odds"] == pytest.approx(expected, abs=1e-3)
    assert score["reward"] == pytest.approx(1 / (1 + np.exp(-expected)), rel=1e-2)


def test_several_files_keep_their_order_and_names(ask, backend, china, flower):
    images = [china, flower[:40, :50].copy(), flower]
    scores = ask.post("/v1/score", files=in_form(*map(file_of, images))).json()["scores"]
    assert [score["id"] for score in scores] == ["0.png", "1.png", "2.png"]
    expected = backend.score([Candidate("x", image) for image in images])
    assert [score["log_odds"] for score in scores] == pytest.approx(expected.tolist(), abs=1e-3)


def test_the_rainy_image_is_compared_with(backend, china):
    consistent = ConsistentBackend(backend, 0.5)
    ask = client_of(consistent)
    rainy = np.clip(china.astype(int) - 30, 0, 255).astype(np.uint8)
    expected = consistent.score([Candidate("x", china, rainy)])[0]
    for response in (
        ask.post("/v1/score", files=in_form(file_of(china), rainy=[file_of(rainy)])),
        ask.post("/v1/score", json=in_json(file_of(china), rainy=base64.b64encode(file_of(rainy)).decode())),
    ):
        assert response.json()["scores"][0]["log_odds"] == pytest.approx(expected, abs=1e-3)
    problem(ask.post("/v1/score", files=in_form(file_of(china))), 422, "lacks its rainy image")
    small = file_of(rainy[:50])
    problem(ask.post("/v1/score", files=in_form(file_of(china), rainy=[small])), 422, "derain at native size")


def test_one_bad_image_never_fails_its_neighbours(ask, backend, china):
    cut_off = file_of(china, "jpeg")[:4000]
    strip = file_of(np.zeros((1, 3000, 3), np.uint8))
    files = in_form(file_of(china), b"no image", cut_off, strip, bomb(30_000, 30_000), file_of(china))
    response = ask.post("/v1/score", files=files)
    assert response.status_code == 200
    scores = response.json()["scores"]
    expected = backend.score([Candidate("x", china)])[0]
    assert [score["log_odds"] is None for score in scores] == [False, True, True, True, True, False]
    assert scores[0]["log_odds"] == pytest.approx(expected, abs=1e-3)
    assert scores[5]["log_odds"] == pytest.approx(expected, abs=1e-3)
    assert "no readable image" in scores[1]["error"]
    assert "truncated" in scores[2]["error"]
    assert "strip" in scores[3]["error"]
    assert "too large" in scores[4]["error"]


def test_a_turned_photograph_is_scored_upright(ask, backend, china):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    turned = file_of(np.rot90(china).copy(), "png", exif=exif)
    score = ask.post("/v1/score", files=in_form(turned)).json()["scores"][0]
    assert score["log_odds"] == pytest.approx(backend.score([Candidate("x", china)])[0], abs=1e-3)


def test_pixels_are_counted_before_they_are_decoded(backend, china):
    ask = client_of(backend, max_pixels=china.shape[0] * china.shape[1])
    assert ask.post("/v1/score", files=in_form(file_of(china))).status_code == 200
    one_more = np.pad(china, ((0, 1), (0, 0), (0, 0)))
    told = problem(ask.post("/v1/score", files=in_form(file_of(one_more))), 413, "320 x 214 pixels")
    assert told["errors"][0]["id"] == "0.png"
    problem(ask.post("/v1/score", json=in_json(bomb(60_000, 60_000))), 413, "too large")


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("path", "kind"), [("/v1/score", "application/json"), ("/v1/views", "octet-stream")])
def test_a_body_over_the_limit_is_refused(backend, path, kind, chunked):
    ask = client_of(backend, max_body_bytes=1000)
    body = iter([b"x" * 600] * 2) if chunked else b"x" * 1001
    problem(ask.post(path, content=body, headers={"content-type": kind}), 413, "larger than 1000 bytes")


def test_too_many_images_are_refused(backend, china):
    ask = client_of(backend, max_images=2)
    small = file_of(china[:40, :40].copy())
    assert ask.post("/v1/score", files=in_form(small, small)).status_code == 200
    problem(ask.post("/v1/score", json=in_json(small, small, small)), 413, "more than the 2 images")
    problem(ask.post("/v1/score", files=in_form(small, small, small)), 413, "more than the 2 images")
    problem(ask.post("/v1/score", files=in_form(*[small] * 5)), 413, "Too many files")


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ({"content": b"{"}, 400, "no JSON"),
        ({"json": {}}, 422, "images: Field required"),
        ({"json": {"images": []}}, 422, "images"),
        ({"json": {"images": [{"image": "%%%"}]}}, 422, "images.0.image is not base64"),
        ({"json": {"images": [{"image": "AAAA", "rain": "AAAA"}]}}, 422, "images.0.rain: Extra inputs"),
        ({"content": b"x", "headers": {"content-type": "image/png"}}, 415, "'image/png' is not taken"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
        ({"files": {"picture": b"x"}}, 422, "neither 'images' nor 'rainy'"),
        ({"files": [("images", b"x"), ("images", b"x"), ("rainy", b"x")]}, 422, "2 images came with 1 rainy"),
    ],
)
def test_a_malformed_request_is_told_what_is_wrong(ask, request_, status, words):
    if "content" in request_:
        request_ = {"headers": {"content-type": "application/json"}, **request_}
    problem(ask.post("/v1/score", **request_), status, words)


def test_views_are_scored_as_they_are(ask, backend, china):
    views = backend.views.cut(china)[:9]
    response = ask.post(
        "/v1/views", content=views.tobytes(), params={"fingerprint": backend.fingerprint}
    ).json()
    assert response["fingerprint"] == backend.fingerprint
    assert response["log_odds"] == pytest.approx(backend.score_views(views).tolist(), abs=1e-3)


def test_views_of_another_scorer_or_size_are_refused(ask, backend):
    view = bytes(32 * 32 * 3)
    problem(ask.post("/v1/views", content=view, params={"fingerprint": "other"}), 409, "cannot be compared")
    problem(ask.post("/v1/views", content=view[1:]), 422, "no whole number of views of 32 x 32 x 3")
    problem(ask.post("/v1/views", content=b""), 422, "no whole number")
    problem(ask.post("/v1/views", content=view * 65), 422, "send 1 to 64")


def test_a_token_is_asked_for_where_one_is_set(backend, china):
    ask = client_of(backend, token="sesame-open-open")
    body = in_json(file_of(china[:40, :40].copy()))
    for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic c2VzYW1l"}):
        response = ask.post("/v1/score", json=body, headers=header)
        problem(response, 401, "Authorization: Bearer TOKEN")
        assert response.headers["www-authenticate"].startswith("Bearer")
    assert ask.get("/v1/scorer").status_code == 401
    right = {"Authorization": "Bearer sesame-open-open"}
    assert ask.post("/v1/score", json=body, headers=right).status_code == 200
    assert ask.get("/healthz").json() == {"status": "ok"}


class Line:
    """To a scorer that is in trouble."""

    def __init__(self, trouble):
        self.trouble = trouble

    def info(self):
        raise self.trouble


@pytest.mark.parametrize(
    ("trouble", "status", "retry_after"),
    [
        (ScorerBusy("the scorer", 2.5), 503, "3"),
        (ScorerAway("the scorer does not answer"), 503, "2"),
        (ScorerError("the weights are damaged"), 500, None),
        (OSError("secret"), 500, None),
    ],
)
@pytest.mark.parametrize("path", ["/readyz", "/v1/scorer", "/v1/views"])
def test_trouble_behind_the_interface_is_told_without_details(trouble, status, retry_after, path):
    ask = client_of(None, Line(trouble))
    response = ask.post(path, content=b"x") if path == "/v1/views" else ask.get(path)
    told = problem(response, status, "")
    assert response.headers.get("retry-after") == retry_after
    assert "secret" not in told["detail"]
    assert ask.get("/healthz").status_code == 200


def test_requests_and_images_are_counted(ask, china):
    ask.post("/v1/score", files=in_form(file_of(china), b"no image"))
    ask.post("/v1/views", content=bytes(2 * 32 * 32 * 3))
    ask.get("/v1/scorer")
    ask.get("/what/ever")
    text = ask.get("/metrics").text
    for line in (
        'rgsud_scorer_images_total{result="scored"} 1.0',
        'rgsud_scorer_images_total{result="refused"} 1.0',
        "rgsud_scorer_views_total 2.0",
        'rgsud_scorer_http_request_seconds_count{method="POST",route="/v1/score",status="200"} 1.0',
        'rgsud_scorer_http_request_seconds_count{method="GET",route="none",status="404"} 1.0',
        'name="test"',
    ):
        assert line in text


def test_problems_of_the_framework_have_the_same_form(ask):
    problem(ask.get("/what/ever"), 404, "nothing at /what/ever")
    problem(ask.get("/v1/score"), 405, "does not take GET")
    problem(ask.post("/v1/views", params={"fingerprint": "x" * 200}), 422, "query.fingerprint")


def test_other_names_and_other_sites_are_refused(ask, backend, china):
    body = in_json(file_of(china[:40, :40].copy()))
    for path, send in (("/v1/score", ask.post), ("/v1/views", ask.post), ("/v1/scorer", ask.get)):
        problem(send(path, headers={"host": "evil.example"}), 421, "localhost only")
        for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
            problem(send(path, headers=headers), 403, "another site")
    assert ask.post("/v1/score", json=body, headers={"origin": "http://localhost"}).status_code == 200
    with_token = client_of(backend, token="sesame-open-open")
    headers = {"host": "scorer.example", "authorization": "Bearer sesame-open-open"}
    assert with_token.post("/v1/score", json=body, headers=headers).status_code == 200


@pytest.mark.parametrize("value", [b"0", b"[]", b"{}", b'{"image": ""}', b'",,,,"', b'"a"'])
def test_json_of_many_values_is_refused_by_their_number(ask, monkeypatch, value):
    def parse(*_, **__):
        raise AssertionError("the body was parsed")

    monkeypatch.setattr("iqa_service.serving.schemas.ImagesIn.model_validate_json", parse)
    body = b'{"images": [' + b",".join([value] * 1_000_000) + b"]}"
    headers = {"content-type": "application/json"}
    problem(ask.post("/v1/score", content=body, headers=headers), 413, "more than the 64 images")


def test_only_the_first_of_many_faults_is_looked_for(ask):
    body = {"images": [{"image": 0, "x": 0}] * 10}
    problem(ask.post("/v1/score", json=body), 422, "images.0")
