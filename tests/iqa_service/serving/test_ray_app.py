"""How the application is put together, without a Ray to run it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ray.exceptions import ActorDiedError
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as build_as_serve_does
from ray.serve.schema import ServeDeploySchema
from typer.testing import CliRunner

from iqa_service.cli import app as commands
from iqa_service.serving.ray_app import build_app, deploy_scorer
from iqa_service.serving.settings import TOKEN_VARIABLE, ServiceSettings
from rgsud_core.errors import ServiceError

DEPLOYED = yaml.safe_load((Path(__file__).parents[3] / "deploy/serve.yaml").read_text())


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


def parts(application):
    """The interface's deployment and its settings, and the scorer's and its."""
    ingress = application._bound_deployment
    scorer, settings = ingress.init_args
    deployment = scorer._bound_deployment
    return ingress, settings, deployment, deployment.init_args[0]


def test_the_file_for_serve_deploy_is_valid():
    (application,) = ServeDeploySchema.model_validate(DEPLOYED).applications
    assert application.import_path == "iqa_service.serving.ray_app:build_app"
    ServiceSettings(**application.args)


def test_serve_gives_the_builder_checked_settings():
    ingress, settings, scorer, same = parts(
        build_as_serve_does(build_app, {"replicas": "2", "max_replicas": "5", "cpus": "1.5"})
    )
    assert settings == same == ServiceSettings(replicas=2, max_replicas=5, cpus=1.5)
    assert (ingress.name, scorer.name) == ("Ingress", "Scorer")
    scaling = scorer._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 5)
    assert scaling.target_ongoing_requests == settings.target_ongoing_requests
    assert scorer.ray_actor_options["num_cpus"] == 1.5
    with pytest.raises(ValueError, match=r"unknown setting 'replcas'.*did you mean 'replicas'\?"):
        build_as_serve_does(build_app, {"replcas": 2})


def test_limits_reach_serve():
    settings = ServiceSettings(max_ongoing_requests=7, max_queued_requests=3, retry_after_seconds=4)
    for deployment in parts(build_app(settings))[::2]:
        config = deployment._deployment_config
        assert (config.max_ongoing_requests, config.max_queued_requests) == (7, 3)
        assert config.backpressure_config.retry_after_s == 4
        assert config.logging_config["enable_access_log"] is False


def test_without_http_callers_ask_the_scorer_itself():
    assert build_app(ServiceSettings(http=False))._bound_deployment.name == "Scorer"


def test_the_token_of_the_environment_holds_unless_another_is_given(monkeypatch):
    assert parts(build_app(ServiceSettings()))[1].token is None
    monkeypatch.setenv(TOKEN_VARIABLE, "sesame-open-open\n")
    assert parts(build_app(ServiceSettings()))[1].token.get_secret_value() == "sesame-open-open"
    assert (
        parts(build_app(ServiceSettings(token="another-sesame-1")))[1].token.get_secret_value()
        == "another-sesame-1"
    )
    assert "sesame-open-open" not in repr(parts(build_app(ServiceSettings()))[1])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "scorer.example"])
def test_the_command_does_not_open_to_the_world_without_a_token(host):
    result = CliRunner().invoke(commands, ["serve", "--host", host])
    assert isinstance(result.exception, ServiceError)
    assert f"set {TOKEN_VARIABLE}" in str(result.exception)


def test_the_command_names_a_port_that_is_taken():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(commands, ["serve", "--port", str(port)])
    assert isinstance(result.exception, ServiceError)
    assert f"cannot listen on 127.0.0.1:{port}" in str(result.exception)


def test_a_call_that_is_announced_fits_a_body():
    assert ServiceSettings().views_at_once == 64
    large = ServiceSettings(batch_views=256)
    assert 200 < large.views_at_once < 256
    assert large.views_at_once * 224 * 224 * 3 <= large.max_body_bytes


@pytest.mark.parametrize("problem", [ActorDiedError, TimeoutError])
def test_a_proxy_that_takes_too_long_costs_no_deployment(problem, monkeypatch):
    given = []

    def run(application, **options):
        given.append(options)
        if len(given) == 1:
            raise problem

    monkeypatch.setattr("iqa_service.serving.ray_app.serve.run", run)
    assert deploy_scorer(ServiceSettings(http=False), "mine") == "serve:mine"
    assert given == 2 * [{"name": "mine", "route_prefix": None}]
