#!/usr/bin/env python3
"""Print requests that botocore's own signers signed, as vectors.json has them: vectors.py > vectors.json. Needs botocore."""

import datetime
import json

from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

TIME = datetime.datetime(2015, 8, 30, 12, 36, 0, tzinfo=datetime.UTC)
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
FORM = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
TOKEN = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI="

CASES = {
    "nothing": {"method": "GET", "url": "https://example.amazonaws.com/"},
    "form": {"method": "POST", "url": "https://ec2.us-east-1.amazonaws.com/", "headers": FORM, "body": "Action=DescribeVpcs&Version=2016-11-15"},
    "json target": {
        "method": "POST",
        "url": "http://localhost:4566/",
        "headers": {"X-Amz-Target": "GraniteServiceVersion20100801.ListMetrics", "Content-Type": "application/x-amz-json-1.0"},
        "body": "{}",
    },
    "session token": {"method": "POST", "url": "https://sts.amazonaws.com/", "headers": FORM, "body": "Action=GetCallerIdentity&Version=2011-06-15", "token": TOKEN},
    "query in another order": {"method": "GET", "url": "https://example.amazonaws.com/?Param2=value2&Param1=value1&Param1=Value0&A%20b=%2Fc"},
    "spaces in a header": {"method": "GET", "url": "https://example.amazonaws.com/", "headers": {"My-Header1": "  a   b   c "}},
    "path with an ARN": {
        "method": "GET",
        "url": "https://elasticfilesystem.us-east-1.amazonaws.com/2015-02-01/resource-tags/arn%3Aaws%3Aelasticfilesystem%3Aus-east-1%3A1%3Afile-system%2Ffs-1?MaxResults=10",
    },
    "path with dots": {"method": "GET", "url": "https://example.amazonaws.com/a/./b/../c//d/"},
    "path that ends with a dot": {"method": "GET", "url": "https://example.amazonaws.com/a/b/."},
    "body that is not text": {"method": "POST", "url": "https://monitoring.us-east-1.amazonaws.com/service/GraniteServiceVersion20100801/operation/ListMetrics", "headers": {"smithy-protocol": "rpc-v2-cbor"}, "body": "\u00bf\u00ff"},
    "presigned": {"method": "GET", "url": "https://ec2.us-east-1.amazonaws.com/?Action=DescribeVpcs&Version=2016-11-15", "expires": 3600},
    "presigned with a token": {"method": "GET", "url": "https://sts.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15", "expires": 60, "token": TOKEN},
}


def signed(name: str, case: dict) -> dict:
    credentials = Credentials("AKIDEXAMPLE", SECRET, case.get("token"))
    request = AWSRequest(method=case["method"], url=case["url"], headers=case.get("headers"), data=case.get("body", "").encode("latin-1"))
    if "expires" in case:
        signer = auth.SigV4QueryAuth(credentials, "service", "us-east-1", expires=case["expires"])
    else:
        signer = auth.SigV4Auth(credentials, "service", "us-east-1")
    signer.add_auth(request)
    host = case["url"].split("/")[2]
    return {
        "name": name,
        "method": request.method,
        "target": request.url.split(host, 1)[1],
        "headers": [["Host", host], *([key, value] for key, value in request.headers.items())],
        "body": case.get("body", ""),
        "token": case.get("token"),
    }


def main() -> None:
    auth.get_current_datetime = lambda: TIME.replace(tzinfo=None)
    vectors = [signed(name, case) for name, case in CASES.items()]
    print("[\n" + ",\n".join(json.dumps(vector) for vector in vectors) + "\n]")


if __name__ == "__main__":
    main()
