"""OpenTelemetry: a span, a measurement and a log record for each request.

All three are collected, and exported in batches. With ``PROTOCOL=grpc`` the exporters
have gRPC channels, so they are made in each worker.
"""

from __future__ import annotations

import logging
import os
import typing as t
import uuid

from flask import Flask
from opentelemetry import metrics
from opentelemetry import trace
from opentelemetry._logs import set_logger_provider
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from flask_prefork import Prefork

PROTOCOL = os.environ["PROTOCOL"]
if PROTOCOL.startswith("grpc"):
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
        OTLPMetricExporter,
    )
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
else:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
        OTLPMetricExporter,
    )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

try:
    from opentelemetry.instrumentation.logging.handler import LoggingHandler
except ImportError:
    from opentelemetry.sdk._logs import LoggingHandler

app = Flask(__name__)
prefork = Prefork(app)
logger = logging.getLogger("shop")
logger.setLevel(logging.INFO)
logger.propagate = False


def set_up() -> None:
    """As the library's documentation says."""
    traces = TracerProvider()
    traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(traces)
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    metrics.set_meter_provider(MeterProvider([reader]))
    logs = LoggerProvider()
    logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    set_logger_provider(logs)
    logger.addHandler(LoggingHandler(logger_provider=logs))


if PROTOCOL == "grpc":
    prefork.after_fork(set_up)
else:
    set_up()
FlaskInstrumentor().instrument_app(app)
counter = metrics.get_meter("shop").create_counter("requests")


@app.get("/")
def index() -> dict[str, t.Any]:
    number = uuid.uuid4().hex
    trace.get_current_span().set_attribute("id", f"span-{number}")
    counter.add(1, {"id": f"metric-{number}"})
    logger.info("log-%s", number)
    return {"id": number, "pid": os.getpid()}
