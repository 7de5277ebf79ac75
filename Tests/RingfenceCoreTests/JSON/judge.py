#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Judges what the JSON reader made of documents, by Python's own reader.

    judge.py FILE

FILE holds records: a line `FORM DEPTH NAMES LENGTH LENGTH LENGTH`, then so many bytes each of a document, of the verdict
and, in the form `parts`, of the raw value. FORM is `any` (every name is taken), `named` (those of NAMES only) or
`parts` (those of NAMES are read, the others passed over, `raw` is cut out). NAMES are hexadecimal, joined by commas.
The verdict is `-`, refused, or the object as `canonical` writes it.

Python's reader takes more than ours, so what it made of a document goes through the rules of ours: one object, no name
twice, lists of strings or of objects only, objects no deeper than DEPTH, no half surrogates. Prints a line for each
record judged otherwise, at most ten, then the number of records, and of those that were no documents.
"""
import json
import re
import sys


class Refused(Exception):
    pass


class Fields(list):
    """An object, with the names in order and twice if they are there twice."""


class Number(str):
    """A number as it is written."""


def refuse(_):
    raise Refused("no JSON")


DECODER = json.JSONDecoder(
    object_pairs_hook=Fields, parse_int=Number, parse_float=Number, parse_constant=refuse, strict=True
)


def parse(document):
    try:
        return DECODER.decode(document.decode("utf-8", "strict"))
    except (ValueError, RecursionError) as error:
        raise Refused(str(error)) from None


def text(value):
    try:
        encoded = value.encode("utf-8", "strict")
    except UnicodeEncodeError:
        raise Refused("half a surrogate pair") from None
    return b"s%d:%s" % (len(encoded), encoded)


def number(value):
    value = re.sub(r"\.0+$", "", value)
    if any(character in value for character in ".eE"):
        return b"o"
    digits = value.lstrip("-")
    # Python refuses to read very long ones.
    if len(digits) > 19:
        return b"o"
    read = int(value)
    return b"i%d" % read if -(2**63) <= read < 2**63 else b"o"


def canonical(value, depth):
    """The value where objects may lie `depth` deep."""
    if isinstance(value, Number):
        return number(value)
    if isinstance(value, str):
        return text(value)
    if value is True or value is False or value is None:
        return {True: b"t", False: b"f", None: b"n"}[value]
    if isinstance(value, Fields):
        if depth == 0:
            raise Refused("too deep")
        return fields(value, depth - 1)
    if all(isinstance(item, str) and not isinstance(item, Number) for item in value):
        return b"[" + b"".join(text(item) for item in value) + b"]"
    if depth > 0 and all(isinstance(item, Fields) for item in value):
        return b"(" + b"".join(fields(item, depth - 1) for item in value) + b")"
    raise Refused("a list of others")


def fields(items, depth, names=None):
    seen = set()
    parts = []
    for name, value in items:
        if name in seen or (names is not None and name not in names):
            raise Refused("twice or unknown")
        seen.add(name)
        parts.append(text(name) + canonical(value, depth))
    return b"{" + b"".join(parts) + b"}"


def check(value, levels):
    """Refuses what may not be passed over."""
    if levels == 0:
        raise Refused("too deep")
    if isinstance(value, Fields):
        for name, inner in value:
            text(name)
            check(inner, levels - 1)
    elif isinstance(value, list):
        for inner in value:
            check(inner, levels - 1)
    elif isinstance(value, str):
        text(value)


def parts(items, names):
    seen = set()
    taken = []
    raw = None
    for name, value in items:
        if name in seen and (name in names or name == "raw"):
            raise Refused("twice")
        seen.add(name)
        text(name)
        if name in names:
            taken.append(text(name) + canonical(value, 0))
        else:
            check(value, 32)
            if name == "raw":
                raw = value
    return b"{" + b"".join(taken) + b"}", raw


def judge(form, depth, names, document, verdict, raw):
    try:
        items = parse(document)
        if not isinstance(items, Fields):
            raise Refused("not an object")
        if form == b"parts":
            expected, value = parts(items, names)
            if expected == verdict and value != (parse(raw) if raw else None):
                return b"another raw value"
        else:
            expected = fields(items, depth, names if form == b"named" else None)
    except Refused:
        expected = b"-"
    return None if expected == verdict else expected


def main():
    with open(sys.argv[1], "rb") as file:
        data = file.read()
    at = count = refused = told = 0
    while at < len(data):
        end = data.index(b"\n", at)
        form, depth, listed, *lengths = data[at:end].split(b" ")
        at = end + 1
        pieces = []
        for length in lengths:
            pieces.append(data[at : at + int(length)])
            at += int(length)
        names = {bytes.fromhex(name.decode()).decode() for name in listed.split(b",")}
        expected = judge(form, int(depth), names, *pieces)
        count += 1
        refused += pieces[1] == b"-"
        if expected is not None and told < 10:
            told += 1
            print(f"record {count}: {form.decode()} {depth.decode()} {pieces[0]!r}: read {pieces[1]!r}, judged {expected!r}")
    print(f"{count} {refused}")


main()
