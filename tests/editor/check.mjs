// Tries a JSON Schema with the YAML language server: what an editor would complete, show and mark.
//
// node check.mjs SCHEMA MODULES: prints one JSON object with the completions, hovers and findings; the test judges them.

import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [schemaPath, modules] = process.argv.slice(2);
const schema = pathToFileURL(resolve(schemaPath)).href;
const bin = JSON.parse(readFileSync(join(modules, "yaml-language-server/package.json"), "utf8")).bin["yaml-language-server"];
const server = spawn(process.execPath, [join(modules, "yaml-language-server", bin), "--stdio"], { stdio: ["pipe", "pipe", "inherit"] });

let buffer = Buffer.alloc(0);
let nextId = 1;
const waiting = new Map();
const findings = new Map();

function send(message) {
  const body = Buffer.from(JSON.stringify({ jsonrpc: "2.0", ...message }));
  server.stdin.write(`Content-Length: ${body.length}\r\n\r\n`);
  server.stdin.write(body);
}

function request(method, params) {
  const id = nextId++;
  send({ id, method, params });
  return new Promise((done) => waiting.set(id, done));
}

function answer(message) {
  const yaml = {
    validate: true,
    hover: true,
    completion: true,
    schemas: { [schema]: "*.yaml" },
    schemaStore: { enable: false },
    kubernetesCRDStore: { enable: false },
  };
  const section = (item) => (item.section === "yaml" ? yaml : item.section === "[yaml]" ? { "editor.tabSize": 2 } : {});
  const result = message.method === "workspace/configuration" ? message.params.items.map(section) : null;
  send({ id: message.id, result });
}

function hear(message) {
  if (message.method === "textDocument/publishDiagnostics") {
    const { uri, diagnostics } = message.params;
    findings.get(uri)?.(diagnostics);
  } else if (message.method && message.id !== undefined) {
    answer(message);
  } else if (waiting.has(message.id)) {
    waiting.get(message.id)(message.result);
    waiting.delete(message.id);
  }
}

server.stdout.on("data", (data) => {
  buffer = Buffer.concat([buffer, data]);
  for (;;) {
    const end = buffer.indexOf("\r\n\r\n");
    if (end < 0) return;
    const length = Number(/Content-Length: (\d+)/i.exec(buffer.toString("utf8", 0, end))[1]);
    if (buffer.length < end + 4 + length) return;
    const body = buffer.toString("utf8", end + 4, end + 4 + length);
    buffer = buffer.subarray(end + 4 + length);
    hear(JSON.parse(body));
  }
});

// `|` marks where the pointer is.
async function at(name, marked, ask) {
  const offset = marked.indexOf("|");
  const before = marked.slice(0, offset).split("\n");
  const position = { line: before.length - 1, character: before.at(-1).length };
  const uri = await open(name, marked.replace("|", ""));
  return request(ask, { textDocument: { uri }, position });
}

async function open(name, text) {
  const uri = `file:///${name}.yaml`;
  send({ method: "textDocument/didOpen", params: { textDocument: { uri, languageId: "yaml", version: 1, text } } });
  return uri;
}

async function marks(name, text) {
  const uri = `file:///${name}.yaml`;
  const told = new Promise((done) => findings.set(uri, done));
  await open(name, text);
  return (await told).map((d) => ({ line: d.range.start.line + 1, message: d.message }));
}

const head = "apiVersion: headwater/v1\nname: orders\nsources:\n  orders: { topic: business.orders.created, format: avro }\n";
const sinks = "sinks:\n  out: { from: orders, topic: analytics.orders.out }\n";

await request("initialize", {
  processId: process.pid,
  rootUri: null,
  capabilities: { workspace: { configuration: true, didChangeConfiguration: { dynamicRegistration: true } }, textDocument: { hover: { contentFormat: ["markdown"] } } },
});
send({ method: "initialized", params: {} });
send({ method: "workspace/didChangeConfiguration", params: { settings: {} } });

const labels = (result) => (result?.items ?? result ?? []).map((item) => item.label).sort();
const hover = (result) => {
  const contents = result?.contents ?? "";
  return typeof contents === "string" ? contents : (contents.value ?? JSON.stringify(contents));
};
// The first findings tell that the configuration has arrived.
const right = await marks("right", readFileSync(new URL("../../pipelines/order-analytics/pipeline.yaml", import.meta.url), "utf8"));
const result = {
  right,
  steps: labels(await at("steps", `${head}steps:\n  big:\n    from: orders\n    |\n${sinks}`, "textDocument/completion")),
  window: labels(await at("window", `${head}steps:\n  w:\n    from: orders\n    window:\n      |\n${sinks}`, "textDocument/completion")),
  emit: labels(await at("emit", `${head}steps:\n  w:\n    from: orders\n    window:\n      tumbling: 1m\n      emit: |\n${sinks}`, "textDocument/completion")),
  hoverKey: hover(await at("hover", `${head}steps:\n  w:\n    from: orders\n    window: { tumbling: 1m, by: [id], compute: { n: count(*) }, late|ness: 2m }\n${sinks}`, "textDocument/hover")),
  hoverOperator: hover(await at("operator", `${head}steps:\n  w:\n    from: orders\n    fil|ter: total > 1\n${sinks}`, "textDocument/hover")),
  typo: await marks("typo", `${head}steps:\n  w:\n    from: orders\n    window: { tumbling: 1m, by: [id], compute: { n: count(*) }, latness: 2m }\n${sinks}`),
  value: await marks("value", `${head.replace("avro", "avrro")}${sinks}`),
  duration: await marks("duration", `${head}steps:\n  w:\n    from: orders\n    window: { tumbling: one minute, by: [id], compute: { n: count(*) } }\n${sinks}`),
  two: await marks("two", `${head}steps:\n  w:\n    from: orders\n    filter: a > 1\n    map: { drop: [a] }\n${sinks}`),
};
console.log(JSON.stringify(result, null, 1));
server.kill();
process.exit(0);
