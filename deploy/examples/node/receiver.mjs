// Receives Fanfare's webhooks: checks the signature, takes each delivery once, answers.
//
//     WEBHOOK_SECRET=whsec_... node receiver.mjs
//
// Node 18 or later, nothing to install. Put your work into `take`.
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const SECRET = process.env.WEBHOOK_SECRET;
const PORT = Number(process.env.PORT ?? 8000);
const TOLERANCE_SECONDS = 5 * 60;
const BODY_MAX_BYTES = 1024 * 1024;
const REMEMBERED = 100_000;
if (!SECRET) throw new Error("set WEBHOOK_SECRET");

// How each delivery went or goes, by webhook-id; where it must outlast a restart, a table with a unique key.
const taken = new Map();

/** What you do with it, within the 15 s that Fanfare waits. Throw, and it comes again. */
async function take(event) {
  if ("entity" in event) console.log("full", event.event, event.entity.uid); // Capturi's payload `full`
  else if ("uid" in event) console.log("identity", event.event, event.uid); // `identity`: fetch the rest by the uid
  else console.log("other", event.type ?? event.event); // any other catalog's
}

/** Whether it comes from who knows the secret, and is no recording (standardwebhooks.com). */
function isSigned(headers, body) {
  const { "webhook-id": id = "", "webhook-timestamp": timestamp = "", "webhook-signature": signatures = "" } = headers;
  if (!/^\d{1,11}$/.test(timestamp)) return false;
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE_SECONDS) return false;
  const key = SECRET.startsWith("whsec_") ? Buffer.from(SECRET.slice(6), "base64") : Buffer.from(SECRET);
  const hmac = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body);
  const expected = Buffer.from(`v1,${hmac.digest("base64")}`);
  // While a secret is being rotated both sign: one that fits is enough.
  return signatures.split(" ").some((text) => {
    const signature = Buffer.from(text);
    return signature.length === expected.length && timingSafeEqual(signature, expected);
  });
}

/** Takes it; a repeat waits until it is known how the first went. */
async function takeOnce(delivery, body) {
  if (!taken.has(delivery)) {
    taken.set(delivery, (async () => take(JSON.parse(body.toString())))());
    if (taken.size > REMEMBERED) taken.delete(taken.keys().next().value);
  }
  try {
    await taken.get(delivery);
  } catch (error) {
    taken.delete(delivery);
    throw error;
  }
}

async function receive(request) {
  if (!(Number(request.headers["content-length"]) <= BODY_MAX_BYTES)) return 413;
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  if (!isSigned(request.headers, body)) return 401;
  try {
    await takeOnce(request.headers["webhook-id"], body);
    return 200;
  } catch (error) {
    console.log("not taken:", error.message);
    return 500;
  }
}

const server = createServer(async (request, response) => {
  const status = await receive(request).catch(() => 400); // it broke off
  response.writeHead(status, { "content-length": 0, ...(status === 413 && { connection: "close" }) }).end();
});
server.listen(PORT, "127.0.0.1", () => console.log("listening on", PORT)); // behind what speaks TLS
