"""Not an app but a client, for an environment with boto3: stores things and looks.

It takes the address of an S3 server, and prints what it saw as JSON.
"""

from __future__ import annotations

import json
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

PART = 5 << 20

s3 = boto3.client(
    "s3",
    endpoint_url=sys.argv[1],
    region_name="us-east-1",
    aws_access_key_id="key",
    aws_secret_access_key="secret",
    config=Config(proxies={}, retries={"total_max_attempts": 1}, read_timeout=20),
)
seen = {}
s3.create_bucket(Bucket="shelf")
s3.put_object(
    Bucket="shelf",
    Key="a poem, ä.txt",
    Body=b"text",
    Metadata={"author": "nobody", "with_underscore": "too"},
)
s3.put_object(Bucket="shelf", Key="large", Body=bytes(6 << 20))
upload = {"Bucket": "shelf", "Key": "parts"}
upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
parts = []
for number in (1, 2):
    body = bytes([number]) * PART
    answer = s3.upload_part(**upload, PartNumber=number, Body=body)
    parts.append({"PartNumber": number, "ETag": answer["ETag"]})
s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
listed = s3.list_objects_v2(Bucket="shelf")["Contents"]
seen["listed"] = {one["Key"]: one["Size"] for one in listed}
poem = s3.get_object(Bucket="shelf", Key="a poem, ä.txt")
seen["poem"] = poem["Body"].read().decode()
seen["metadata"] = poem["Metadata"]
middle = f"bytes={PART - 1}-{PART}"
border = s3.get_object(Bucket="shelf", Key="parts", Range=middle)
seen["border"] = list(border["Body"].read())
s3.delete_object(Bucket="shelf", Key="large")
try:
    s3.head_object(Bucket="shelf", Key="large")
except ClientError as e:
    seen["deleted"] = e.response["Error"]["Code"]
print(json.dumps(seen))
