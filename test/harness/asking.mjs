/**
 * A program of its own, to be run in any network namespace: asks a URL over and over, each time by a new
 * connection, a question every so many milliseconds whether the last one was answered or not. Tells each end in a line of
 * JSON. `node asking.mjs URL EVERY_MS PATIENCE_MS`
 */
import { get } from 'node:http';

const [url, everyMs, patienceMs] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const mostAtOnce = 200;
let open = 0;

function ask() {
  if (open >= mostAtOnce) return;
  const askedAt = Date.now();
  open += 1;
  let told = false;
  const tell = (error) => {
    if (told) return;
    told = true;
    open -= 1;
    process.stdout.write(`${JSON.stringify({ askedAt, endedAt: Date.now(), error })}\n`);
  };
  const request = get(url, { agent: false, timeout: patienceMs }, (response) => {
    response.on('data', () => {});
    response.on('end', () => tell(response.statusCode === 200 ? null : `status ${response.statusCode}`));
    response.on('error', (error) => tell(error.code ?? error.message));
  });
  request.on('timeout', () => request.destroy(new Error(`no answer in ${patienceMs} ms`)));
  request.on('error', (error) => tell(error.code ?? error.message));
}

const timer = setInterval(ask, everyMs);
// No more questions then; those that are open end.
process.once('SIGTERM', () => clearInterval(timer));
