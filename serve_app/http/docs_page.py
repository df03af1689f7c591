"""The page at `/docs`: the OpenAPI document as plain HTML, with nothing fetched from elsewhere."""

from __future__ import annotations

DOCS_PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Flywheel HTTP API</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid; padding-bottom: .25rem; }
code, pre, textarea { font-family: ui-monospace, monospace; font-size: .875rem; }
pre { overflow: auto; padding: .75rem; border: 1px solid gray; }
textarea { width: 100%; min-height: 7rem; box-sizing: border-box; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; }
.verb { font-weight: 700; }
</style>
</head>
<body>
<h1 id="title">Flywheel HTTP API</h1>
<p id="about">Reading <a href="openapi.json">openapi.json</a> needs JavaScript in this page.</p>
<main id="paths"></main>
<script>
"use strict";
const make = (name, text, className) => {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
};
const table = (head, rows) => {
  const node = make("table"), top = node.insertRow();
  head.forEach((text) => top.append(make("th", text)));
  rows.forEach((cells) => {
    const row = node.insertRow();
    cells.forEach((text) => (row.insertCell().textContent = text));
  });
  return node;
};
const tryIt = (path, verb, example) => {
  const box = make("details"), area = make("textarea"), out = make("pre");
  box.append(make("summary", "Try it"));
  area.value = example ? JSON.stringify(example, null, 2) : "";
  area.hidden = !example;
  const address = make("input");
  address.value = path.replace(/^\\//, "");
  address.size = 60;
  const send = make("button", "Send");
  send.onclick = async () => {
    const reply = await fetch(address.value, {
      method: verb.toUpperCase(),
      body: example ? area.value : undefined,
    });
    const text = await reply.text();
    try {
      out.textContent = reply.status + "\\n" + JSON.stringify(JSON.parse(text), null, 2);
    } catch {
      out.textContent = reply.status + "\\n" + text;
    }
  };
  box.append(address, send, area, out);
  return box;
};
const show = (api) => {
  document.getElementById("title").textContent = api.info.title + " " + api.info.version;
  document.getElementById("about").textContent = api.info.description;
  const main = document.getElementById("paths");
  for (const [path, verbs] of Object.entries(api.paths)) {
    for (const [verb, operation] of Object.entries(verbs)) {
      const heading = make("h2");
      heading.append(make("span", verb.toUpperCase() + " ", "verb"), make("code", path));
      main.append(heading, make("p", operation.summary));
      if (operation.parameters)
        main.append(table(["parameter", "in", "what"],
          operation.parameters.map((p) => [p.name, p.in, p.description || ""])));
      const content = operation.requestBody && operation.requestBody.content["application/json"];
      const example = content && content.example;
      if (example) main.append(make("pre", JSON.stringify(example, null, 2)));
      main.append(table(["status", "meaning"],
        Object.entries(operation.responses).map(([status, r]) => [status, r.description])));
      main.append(tryIt(path, verb, example));
    }
  }
};
fetch("openapi.json").then((reply) => reply.json()).then(show);
</script>
</body>
</html>
"""
