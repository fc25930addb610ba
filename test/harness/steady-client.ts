/**
 * A client as a careful program is one: a connection that it keeps, the next replica where one refuses the connection, and
 * nothing else tried again. Counts what came of its requests.
 */
import { Agent, type IncomingMessage, request } from 'node:http';
import type { Answer } from './client.js';

export interface Tally {
  requests: number;
  /** Connections that were refused, after which another replica was asked. */
  refused: number;
  /** Requests whose connection broke before the answer. */
  cut: string[];
  /** Answers of 500 and above. */
  failures: string[];
  /** Answers after which the same was asked again. */
  again: number;
}

export function newTally(): Tally {
  return { requests: 0, refused: 0, cut: [], failures: [], again: 0 };
}

const PATIENCE_MS = 30_000;

export class SteadyClient {
  private agent = new Agent({ keepAlive: true, maxSockets: 1 });
  private at: number;
  /** Whom it waits for an answer of. */
  asking: string | undefined;

  constructor(
    /** Base URLs that may serve now; asked each time. */
    private readonly bases: () => readonly string[],
    private readonly token: string,
    readonly tally: Tally,
    first = 0,
    /** Answers that do not count: it is asked again, as for a connection that was refused. */
    private readonly isToAskAgain: (answer: Answer) => boolean = () => false,
  ) {
    this.at = first;
  }

  close(): void {
    this.agent.destroy();
  }

  /** The answer. Throws where the connection broke, or nobody took one for long. */
  async ask(method: string, path: string, json?: object, headers: Record<string, string> = {}): Promise<Answer> {
    this.tally.requests += 1;
    const end = Date.now() + PATIENCE_MS;
    for (;;) {
      const bases = this.bases();
      const base = bases[this.at % bases.length];
      if (base === undefined) throw new Error('There is no replica to ask.');
      try {
        this.asking = base;
        const answer = await this.once(base, method, path, json, headers);
        if (this.isToAskAgain(answer) && Date.now() < end) {
          this.tally.again += 1;
          continue;
        }
        if (answer.status >= 500) this.tally.failures.push(`${method} ${path}: ${answer.status} ${answer.text}`);
        return answer;
      } catch (error) {
        const { code, message } = error as NodeJS.ErrnoException;
        const refused = isRefusal(error as NodeJS.ErrnoException);
        if (!refused) this.tally.cut.push(`${method} ${path}: ${code ?? message}`);
        if (!refused || Date.now() > end) throw error;
        this.tally.refused += 1;
        this.at += 1;
        if (this.at % bases.length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
      } finally {
        this.asking = undefined;
      }
    }
  }

  private once(base: string, method: string, path: string, json: object | undefined, headers: object): Promise<Answer> {
    const type = method === 'PATCH' ? 'application/merge-patch+json' : 'application/json';
    const body = json === undefined ? undefined : JSON.stringify(json);
    return new Promise((resolve, reject) => {
      const sent = request(base + path, {
        method,
        agent: this.agent,
        headers: {
          authorization: `Bearer ${this.token}`,
          ...(body !== undefined && { 'content-type': type, 'content-length': String(Buffer.byteLength(body)) }),
          ...headers,
        },
      });
      sent.once('error', reject);
      sent.once('response', (response) => read(response).then(resolve, reject));
      sent.end(body);
    });
  }
}

/** Nothing was sent. A connection that waits to be accepted while its server ceases to listen is reset by the system. */
function isRefusal({ code, syscall }: NodeJS.ErrnoException): boolean {
  return code === 'ECONNREFUSED' || (code === 'ECONNRESET' && syscall === 'connect');
}

async function read(response: IncomingMessage): Promise<Answer> {
  let text = '';
  response.setEncoding('utf8');
  for await (const chunk of response) text += chunk;
  const isJson = /[/+]json/.test(response.headers['content-type'] ?? '');
  return {
    status: response.statusCode!,
    headers: new Headers(response.headers as Record<string, string>),
    text,
    body: isJson && text !== '' ? JSON.parse(text) : undefined,
  };
}
