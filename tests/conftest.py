"""What all tests share: one finished run at scale `test`, a local HTTP server with given answers, and a stand-in for a model."""

import pytest
from local_server import Handler, local_servers
from pipeline import finished_run
from stand_in import said_by_prompt

__all__ = ["finished_run", "said_by_prompt", "server"]


@pytest.fixture
def server():
    """A local HTTP server that plays the given (status, body) answers in order, the last one for ever, and keeps the requests."""
    with local_servers() as serve:

        def start(*answers):
            requests = []

            class Playing(Handler):
                def do_POST(self):
                    status, answer = answers[min(len(requests), len(answers) - 1)]
                    requests.append((self.path, dict(self.headers), self.body()))
                    self.reply(status, answer)

            return serve(Playing), requests

        yield start
