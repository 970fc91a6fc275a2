// Prints what c-ares finds, all questions asked at once.
const dns = require("dns").promises;

const zone = "cluster.local";
const asked = [
  ["A", `ent.dev.svc.${zone}`],
  ["AAAA", `ent.dev.svc.${zone}`],
  ["A", `ent.prod.svc.${zone}`],
  ["AAAA", `ent.prod.svc.${zone}`],
  ["A", `nothing.dev.svc.${zone}`],
  ["A", "www.example.com"],
  ["AAAA", "www.example.com"],
  ["SRV", `_web._tcp.set.dev.svc.${zone}`],
  ["PTR", "10.96.2.1"],
];

const text = (record) => (record.name ? `${record.name}:${record.port}` : record);

async function ask([type, name]) {
  try {
    const found = type === "PTR" ? await dns.reverse(name) : await dns.resolve(name, type);
    return [type, name, ...found.map(text).sort()].join(" ");
  } catch (error) {
    return [type, name, error.code].join(" ");
  }
}

Promise.all(asked.map(ask)).then((lines) => lines.forEach((line) => console.log(line)));
