"""A Dash app with a callback."""

from __future__ import annotations

import os

from dash import Dash
from dash import dcc
from dash import html
from dash import Input
from dash import Output

app = Dash(__name__)
server = app.server
app.layout = html.Div([dcc.Input(id="name", value="Ada"), html.P(id="greeting")])


@app.callback(Output("greeting", "children"), Input("name", "value"))
def greet(name: str) -> str:
    return f"Hello, {name}, from {os.getpid()}"
