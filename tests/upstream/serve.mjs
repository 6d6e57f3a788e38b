// Starts aimock on a free loopback port, says where as one line of JSON on stdout, and ends when stdin closes:
// however the test process dies, nothing of it stays behind. Everything else it has to say goes to stderr.
import { LLMock } from "@copilotkit/aimock";

console.log = console.error;
process.stdin.resume().on("close", () => process.exit(0));

const mock = new LLMock({ host: "127.0.0.1", port: 0, logLevel: "warn", journalMaxEntries: 0 });
process.stdout.write(JSON.stringify({ url: await mock.start(), pid: process.pid }) + "\n");
