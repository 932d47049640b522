"""What botocore sends is what `aws` reads, and what `aws` writes is what botocore reads: for all operations, with random values.

The server is the example `wire`, which prints each input that it decodes and answers what it is told. Requests are serialized, signed and parsed by
botocore's own code, by the models of botocore, so both sides agree only if both have the protocols right.
"""

import base64
import datetime
import http.client
import importlib.util
import json
import os
import random
import select
import string
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest, prepare_request_dict
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from botocore.model import OperationModel, Shape
from botocore.parsers import create_parser
from botocore.serialize import create_serializer

MODELS = Path(__file__).parents[2] / "src/aws/models"
CREDENTIALS = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
ROUNDS = int(os.environ.get("NIMBO_WIRE_ROUNDS", "5"))
LETTERS = string.ascii_letters + " &=+%/?#.<>\"'\\\n\r\té漢😀*"
# Beyond this depth, only what is required.
DEPTH_MAX = 5
TIMEOUT_S = 30

SERVICES = {path.stem: json.loads(path.read_text()) for path in sorted(MODELS.glob("*.json"))}
SPOKEN = [
    (service, protocol, operation["name"])
    for service, model in SERVICES.items()
    for protocol in model["metadata"]["protocols"]
    for operation in model["operations"]
]
SESSION = botocore.session.Session()


class Wire:
    """The server, asked one thing at a time."""

    def __init__(self, program: str) -> None:
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.rest = b""
        self.port = int(self.line())

    def line(self) -> bytes:
        while b"\n" not in self.rest:
            ready, _, _ = select.select([self.process.stdout], [], [], TIMEOUT_S)
            assert ready, "the server says nothing"
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            assert data, "the server ended"
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        return line

    def ask(self, request: Any, answer: dict) -> tuple[dict | None, dict]:
        """What the server decoded, if it could, and what it said then, as botocore's parsers take it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            target = request.url.split(f":{self.port}", 1)[1]
            connection.request(request.method, target, request.body, dict(request.headers.items()))
            ready, _, _ = select.select([self.process.stdout, connection.sock], [], [], TIMEOUT_S)
            decoded = None
            if self.process.stdout in ready:
                decoded = json.loads(self.line())
                self.process.stdin.write(json.dumps(answer).encode() + b"\n")
            response = connection.getresponse()
            headers = {key.lower(): value for key, value in response.getheaders()}
            return decoded, {"status_code": response.status, "headers": headers, "body": response.read()}
        finally:
            connection.close()

    def client(self, service: str, **more: Any) -> Any:
        config = Config(retries={"total_max_attempts": 1}, **more.pop("config", {}))
        options = {"aws_access_key_id": CREDENTIALS.access_key, "aws_secret_access_key": CREDENTIALS.secret_key, **more}
        return SESSION.create_client(
            service, region_name="us-east-1", endpoint_url=f"http://127.0.0.1:{self.port}", config=config, **options
        )


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    program = os.environ.get("NIMBO_WIRE")
    assert program, "NIMBO_WIRE is not set: run these tests by scripts/test"
    wire = Wire(program)
    try:
        yield wire
    finally:
        wire.process.stdin.close()
        wire.process.wait(TIMEOUT_S)


class Values:
    """Random values of shapes."""

    def __init__(self, seed: str, service: str, is_input: bool) -> None:
        self.random = random.Random(seed)
        shapes = {shape["name"]: shape for shape in SERVICES[service]["shapes"]}
        # The server reads what it shall answer as it reads inputs.
        self.unserved = {
            (name, member["name"])
            for name, shape in shapes.items()
            for member in shape.get("members", [])
            if member.get("unserved")
        }
        # Where the service has another word than its model, ours has that.
        self.words = {name: set(shape["enum"]) for name, shape in shapes.items() if "enum" in shape}
        self.is_input = is_input

    def of(self, shape: Shape, depth: int = 0) -> Any:
        return getattr(self, f"{shape.type_name}_of")(shape, depth)

    def count(self, shape: Shape, at_least: int, usually: int) -> int:
        low = shape.metadata.get("min", at_least)
        return self.random.randint(low, max(low, min(usually, shape.metadata.get("max", usually))))

    def structure_of(self, shape: Shape, depth: int) -> dict:
        value = {}
        if shape.is_tagged_union:
            name, member = self.random.choice(list(shape.members.items()))
            return {name: self.of(member, depth + 1)}
        for name, member in shape.members.items():
            is_there = name in shape.required_members or (depth < DEPTH_MAX and self.random.random() < 0.6)
            if is_there and name != "DryRun" and (shape.name, name) not in self.unserved:
                value[name] = self.of(member, depth + 1)
            # Queries do not have what is empty, also where it is required.
            while name in shape.required_members and is_empty(value[name]):
                value[name] = self.of(member, 0)
        return value

    def list_of(self, shape: Shape, depth: int) -> list:
        return [self.of(shape.member, depth + 1) for _ in range(self.count(shape, 0, 3))]

    def map_of(self, shape: Shape, depth: int) -> dict:
        return {self.of(shape.key): self.of(shape.value, depth + 1) for _ in range(self.count(shape, 0, 3))}

    def string_of(self, shape: Shape, _: int) -> str:
        if shape.enum:
            known = self.words.get(shape.name, shape.enum)
            return self.random.choice([word for word in shape.enum if word in known])
        return "".join(self.random.choice(LETTERS) for _ in range(self.count(shape, 1, 12)))

    def integer_of(self, shape: Shape, _: int, bits: int = 31) -> int:
        low, high = shape.metadata.get("min", -(1 << bits)), shape.metadata.get("max", (1 << bits) - 1)
        return self.random.choice([low, high, self.random.randint(low, high), min(max(low, 7), high)])

    def long_of(self, shape: Shape, depth: int) -> int:
        return self.integer_of(shape, depth, 52)

    def double_of(self, shape: Shape, _: int) -> float:
        return max(self.random.randint(-1000, 100_000) / 8, shape.metadata.get("min", -1000))

    float_of = double_of

    def boolean_of(self, *_: Any) -> bool:
        return self.random.random() < 0.5

    def timestamp_of(self, *_: Any) -> datetime.datetime:
        # Some of botocore's serializers drop fractions of seconds.
        seconds = self.random.randint(0, 4_000_000_000) + (0 if self.is_input else self.random.randint(0, 999) / 1000)
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC)

    def blob_of(self, shape: Shape, _: int) -> bytes:
        return self.random.randbytes(self.count(shape, 0, 40))


def plain(value: Any) -> Any:
    """As JSON of ours has it, without what is empty: queries do not have that, and typed inputs do not tell it from what is not there."""
    match value:
        case dict():
            return {key: plain(item) for key, item in value.items() if not is_empty(item)}
        case list():
            return [plain(item) for item in value if not is_empty(item)]
        case bytes():
            return base64.b64encode(value).decode()
        case datetime.datetime():
            return round(value.timestamp(), 3)
        case _:
            return value


def is_empty(value: Any) -> bool:
    return isinstance(value, dict | list) and not plain(value)


def exact(value: Any) -> Any:
    """As `plain`, with what is empty."""
    match value:
        case dict():
            return {key: exact(item) for key, item in value.items()}
        case list():
            return [exact(item) for item in value]
        case _:
            return plain(value)


def test_models_are_what_botocore_has() -> None:
    spec = importlib.util.spec_from_file_location("reduce", MODELS / "reduce.py")
    reduce = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reduce)
    botocore_files = reduce.Botocore(Path(botocore.__file__).parents[1])
    for name in SERVICES:
        assert reduce.reduced(botocore_files, name) == (MODELS / f"{name}.json").read_text(), f"run reduce.py for {name}"


def signed(wire: Wire, service: str, protocol: str, operation: OperationModel, values: dict) -> Any:
    request = create_serializer(protocol, include_validation=True).serialize_to_request(values, operation)
    prepare_request_dict(request, f"http://127.0.0.1:{wire.port}")
    signed = AWSRequest(**{key: request[key] for key in ["method", "url", "headers"]}, data=request["body"])
    signing_name = SESSION.get_service_model(service).signing_name
    SigV4Auth(CREDENTIALS, signing_name, "us-east-1").add_auth(signed)
    return signed.prepare()


@pytest.mark.parametrize(("service", "protocol", "name"), SPOKEN)
def test_inputs_and_outputs_arrive(wire: Wire, service: str, protocol: str, name: str) -> None:
    operation = SESSION.get_service_model(service).operation_model(name)
    for number in range(ROUNDS):
        seed = f"{service} {name} {number}"
        values = Values(seed, service, True).of(operation.input_shape) if operation.input_shape else {}
        answer = Values(seed, service, False).of(operation.output_shape) if operation.output_shape else {}
        request = signed(wire, service, protocol, operation, values)
        decoded, response = wire.ask(request, {"output": exact(answer)})
        assert decoded, f"{seed}: {response} for {values}"
        assert decoded["operation"] == name
        assert plain(decoded["input"]) == plain(values), seed
        assert response["status_code"] == operation.http.get("responseCode", 200) or protocol != "rest-json"
        read = create_parser(protocol).parse(response, operation.output_shape)
        metadata = read.pop("ResponseMetadata")
        assert metadata["HTTPHeaders"]["x-amzn-requestid"]
        assert exact(read) == exact(answer), seed


@pytest.mark.parametrize(("service", "protocol"), sorted({(service, protocol) for service, protocol, _ in SPOKEN}))
def test_errors_arrive(wire: Wire, service: str, protocol: str) -> None:
    name = SERVICES[service]["operations"][0]["name"]
    operation = SESSION.get_service_model(service).operation_model(name)
    values = Values("error", service, True).of(operation.input_shape)
    message = "it's <not> \"there\" & more"
    error = {"code": "ResourceNotFoundException", "message": message}
    decoded, response = wire.ask(signed(wire, service, protocol, operation, values), {"error": error})
    assert decoded
    assert response["status_code"] in {400, 404}
    read = create_parser(protocol).parse(response, operation.output_shape)
    assert (read["Error"]["Code"], read["Error"]["Message"]) == ("ResourceNotFoundException", message)


def refused(wire: Wire, service: str, protocol: str, name: str, values: dict) -> tuple[str, str]:
    """Code and message for an input that botocore's own validation would not let through, or would."""
    operation = SESSION.get_service_model(service).operation_model(name)
    request = create_serializer(protocol, include_validation=False).serialize_to_request(values, operation)
    prepare_request_dict(request, f"http://127.0.0.1:{wire.port}")
    unsent = AWSRequest(**{key: request[key] for key in ["method", "url", "headers"]}, data=request["body"])
    SigV4Auth(CREDENTIALS, SESSION.get_service_model(service).signing_name, "us-east-1").add_auth(unsent)
    decoded, response = wire.ask(unsent.prepare(), {"output": {}})
    assert not decoded
    error = create_parser(protocol).parse(response, operation.output_shape)["Error"]
    return error["Code"], error["Message"]


def test_ec2_tells_what_is_wrong_with_an_input(wire: Wire) -> None:
    def told(values: dict) -> tuple[str, str]:
        return refused(wire, "ec2", "ec2", "RunInstances", {"MinCount": 1, "MaxCount": 1, **values})

    missing = refused(wire, "ec2", "ec2", "RunInstances", {"MinCount": 1})
    assert missing == ("MissingParameter", "The request must contain the parameter MaxCount")
    code, message = told({"MaxCount": "many"})
    assert code == "InvalidParameterValue"
    assert "Value (many) for parameter MaxCount" in message
    ebs = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeType": "gp9"}}
    code, message = told({"BlockDeviceMappings": [ebs]})
    assert code == "InvalidParameterValue"
    assert "Value (gp9) for parameter BlockDeviceMapping.1.Ebs.VolumeType is invalid" in message
    code, message = told({"EnclaveOptions": {"Enabled": True}})
    assert (code, message) == ("UnsupportedOperation", "nimbo does not serve the parameter EnclaveOptions.")


def test_what_is_only_declined_may_be_unserved(wire: Wire) -> None:
    operation = SESSION.get_service_model("ec2").operation_model("RunInstances")
    values = {"MinCount": 1, "MaxCount": 1, "EnclaveOptions": {"Enabled": False}, "HibernationOptions": {"Configured": False}}
    decoded, _ = wire.ask(signed(wire, "ec2", "ec2", operation, values), {"output": {}})
    assert decoded
    assert plain(decoded["input"]) == {"MinCount": 1, "MaxCount": 1}


def test_other_services_tell_what_is_wrong_with_an_input(wire: Wire) -> None:
    code, message = refused(wire, "autoscaling", "query", "SetDesiredCapacity", {"DesiredCapacity": 1})
    assert code == "ValidationError"
    assert "Value null at 'autoScalingGroupName' failed to satisfy constraint: Member must not be null" in message
    for protocol in ["json", "smithy-rpc-v2-cbor"]:
        code, message = refused(wire, "cloudwatch", protocol, "DescribeAlarms", {"MaxRecords": 101})
        assert code in {"ValidationException", "ValidationError"}
        assert "Value '101' at 'maxRecords' failed to satisfy constraint" in message
    code, message = refused(wire, "efs", "rest-json", "DescribeFileSystems", {"MaxItems": 0})
    assert (code, "'maxItems'" in message) == ("ValidationException", True)


def test_a_dry_run_does_nothing(wire: Wire) -> None:
    with pytest.raises(ClientError) as raised:
        wire.client("ec2").delete_volume(VolumeId="vol-1", DryRun=True)
    assert raised.value.response["Error"]["Code"] == "DryRunOperation"
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412


def test_what_is_not_served_is_told_from_what_is_not_there(wire: Wire) -> None:
    with pytest.raises(ClientError) as raised:
        wire.client("ec2").describe_fleets()
    assert raised.value.response["Error"] == {
        "Code": "UnsupportedOperation",
        "Message": "nimbo does not serve the operation DescribeFleets of EC2.",
    }
    with pytest.raises(ClientError, match="nimbo does not serve the service s3"):
        wire.client("s3").list_buckets()


@pytest.mark.parametrize(
    ("service", "call", "code"),
    [
        ("ec2", lambda client: client.describe_vpcs(), "AuthFailure"),
        ("sts", lambda client: client.get_caller_identity(), "SignatureDoesNotMatch"),
        ("efs", lambda client: client.describe_file_systems(), "InvalidSignatureException"),
        ("cloudwatch", lambda client: client.list_metrics(), "InvalidSignatureException"),
    ],
)
def test_a_wrong_secret_is_refused(wire: Wire, service: str, call: Any, code: str) -> None:
    with pytest.raises(ClientError) as raised:
        call(wire.client(service, aws_secret_access_key="wrong"))
    assert raised.value.response["Error"]["Code"] == code


def test_a_presigned_url_is_enough(wire: Wire) -> None:
    url = wire.client("sts").generate_presigned_url("get_caller_identity", ExpiresIn=60, HttpMethod="GET")
    request = AWSRequest(method="GET", url=url).prepare()
    decoded, response = wire.ask(request, {"output": {"Account": "123456789012"}})
    assert decoded == {"operation": "GetCallerIdentity", "input": {}}, response
    assert b"<Account>123456789012</Account>" in response["body"]
    request.url = url.replace("X-Amz-Expires=60", "X-Amz-Expires=61")
    decoded, response = wire.ask(request, {})
    assert (decoded, response["status_code"]) == (None, 403)
