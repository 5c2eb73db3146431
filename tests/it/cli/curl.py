#!/usr/bin/env python3
"""As much of curl as the tests use, for machines without it."""
import http.client
import sys
import time
import urllib.parse

method, data, head, output, fail, tries, url = None, None, None, None, False, 1, ""
words = sys.argv[1:]
while words:
    word = words.pop(0)
    if word == "-X":
        method = words.pop(0)
    elif word == "--data-binary":
        name = words.pop(0)
        assert name == "@-", name
        data = sys.stdin.buffer.read()
    elif word == "-D":
        head = words.pop(0)
    elif word == "-o":
        output = words.pop(0)
    elif word == "--retry":
        tries += int(words.pop(0))
    elif word == "--retry-delay":
        words.pop(0)
    elif word.startswith("-"):
        fail = fail or (not word.startswith("--") and "f" in word)
    else:
        url = word

parts = urllib.parse.urlsplit(url)
method = method or ("GET" if data is None else "POST")
while True:
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    try:
        connection.request(method, parts.path or "/", body=data)
        break
    except ConnectionRefusedError:
        tries -= 1
        if tries == 0:
            place = f"{parts.hostname} port {parts.port} after 0 ms"
            print(f"curl: (7) Failed to connect to {place}: Couldn't connect to server", file=sys.stderr)
            sys.exit(7)
        time.sleep(1)
answer = connection.getresponse()
body = answer.read()
if fail and answer.status >= 400:
    print(f"curl: (22) The requested URL returned error: {answer.status}", file=sys.stderr)
    sys.exit(22)
if head == "-":
    print(f"HTTP/1.1 {answer.status} {answer.reason}\r")
    for name, value in answer.getheaders():
        print(f"{name}: {value}\r")
    sys.stdout.flush()
if output is None:
    sys.stdout.buffer.write(body)
else:
    with open(output, "wb") as file:
        file.write(body)
