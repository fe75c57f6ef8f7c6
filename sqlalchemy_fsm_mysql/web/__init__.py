"""Outcomes and errors in a web application: the HTTP status, a sentence for people, a problem document for programs.

``web.fastapi``, ``web.flask`` and ``web.litestar`` answer all errors of this library with them.

>>> from sqlalchemy_fsm_mysql import Refused
>>> refused = Refused(object, 42, "Pay", "shipped", "state", ["new"])
>>> status_of(refused), sentence_of(refused)
(409, "'Pay' is only allowed from 'new'; it is 'shipped' now.")
"""

from .answers import ANSWERED as ANSWERED
from .answers import Answerable as Answerable
from .answers import problem_of as problem_of
from .answers import sentence_of as sentence_of
from .answers import status_of as status_of

__all__ = ["ANSWERED", "Answerable", "problem_of", "sentence_of", "status_of"]
