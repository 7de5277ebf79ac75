# SPDX-License-Identifier: Apache-2.0
#
# What schemathesis sends is left as it is, but for times to wait, which the service would keep for minutes, and for what
# OpenAPI has no words for: that of two parameters one is to be given, or that one is at most a third of the other.
import schemathesis

LONGEST_MS = 50
# A third of the shortest ttlMs.
LONGEST_CONFIRMATION_MS = 33


def shorten(values, name, most, longest=LONGEST_MS):
    """Caps a time that is allowed; what is not allowed is to be refused as it is."""
    value = values.get(name) if isinstance(values, dict) else None
    digits = isinstance(value, str) and value.isdecimal()
    if (type(value) in (int, float) or digits) and longest < int(value) <= most:
        values[name] = str(longest) if digits else longest


@schemathesis.hook
def before_call(context, case, **kwargs):
    shorten(case.body, "waitMs", 300_000)
    shorten(case.query, "wait", 60_000)
    if isinstance(case.body, dict):
        shorten(case.body.get("confirm"), "withinMs", 5_000, LONGEST_CONFIRMATION_MS)
        # Confirmations take turns: a wait that is shorter than two of them may end without an answer.
        wait = case.body.get("waitMs")
        if isinstance(case.body.get("confirm"), dict) and type(wait) is int and 0 < wait <= LONGEST_MS:
            case.body["waitMs"] = 10 * LONGEST_MS
    # A key of a ring is a text or a number.
    if isinstance(case.query, dict) and "key" in case.query:
        case.query.pop("number", None)
