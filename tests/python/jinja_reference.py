"""Renders chat templates with Jinja2 as transformers does: the reference for the server's own engine.

The environment is that of `fixtures/templates/record.py`.
"""

import datetime
import importlib.util
import pathlib

_FILE = pathlib.Path(__file__).parents[2] / "fixtures/templates/record.py"
_spec = importlib.util.spec_from_file_location("record", _FILE)
_record = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_record)

_ENVIRONMENT = _record.ENVIRONMENT.overlay()
#: Nothing is escaped, so nothing has to be marked as safe. With a mark Python escapes what is added to a text, and the model would
#: read `&#34;` in its tools.
_ENVIRONMENT.filters = _ENVIRONMENT.filters | {"safe": lambda text: text}
#: The error of a template that calls `raise_exception`.
Refused = _record.Refused


def _now(form):
    return datetime.datetime.now().strftime(form)


class Template:
    """A template with the tokens of the model that it belongs to."""

    def __init__(self, source, bos, eos):
        self.source = source
        self._template = _ENVIRONMENT.from_string(source)
        self._tokens = {"bos_token": bos, "eos_token": eos}

    def render(self, messages, tools=None, documents=None, add_generation_prompt=True, **variables):
        """The prompt; whatever Jinja2 raises, where it does."""
        given = {"messages": messages, "add_generation_prompt": add_generation_prompt, "strftime_now": _now}
        render = lambda none: self._template.render(  # noqa: E731
            self._tokens | variables | given, tools=none if tools is None else tools, documents=none if documents is None else documents
        )
        try:
            return render(None)
        except TypeError:
            # Python cannot iterate over None, which transformers passes where there are no tools and no documents; minijinja can.
            return render([])

    def shows(self, messages, texts, **more):
        """Whether it renders these messages, and all of the texts are there."""
        try:
            prompt = self.render(messages, **more)
        except Exception:
            return False
        return all(text in prompt for text in texts)
