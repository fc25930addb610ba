/** What the API's description promises, and which of it has been seen: by operation and status. */
import { type Answer, type Call, type Client, clientWith } from '../harness/client.js';

export interface Operation {
  method: string;
  /** As in the description, with parameters in braces. */
  template: string;
  /** Documented statuses. */
  statuses: number[];
  takesJson: boolean;
  takesKey: boolean;
}

/** All operations of an OpenAPI document. */
export function operationsOf(document: any): Operation[] {
  return Object.entries<any>(document.paths).flatMap(([template, methods]) =>
    Object.entries<any>(methods).map(([method, operation]) => ({
      method: method.toUpperCase(),
      template,
      statuses: Object.keys(operation.responses).map(Number),
      takesJson:
        operation.requestBody?.content !== undefined && JSON.stringify(operation.requestBody).includes('json"'),
      takesKey: JSON.stringify(operation.parameters ?? []).includes('IdempotencyKey'),
    })),
  );
}

const nameOf = ({ method, template }: Pick<Operation, 'method' | 'template'>) => `${method} ${template}`;

export class Record {
  private readonly seen = new Map<string, Set<number>>();
  private readonly patterns: { operation: Operation; pattern: RegExp }[];

  constructor(readonly operations: readonly Operation[]) {
    // A path without parameters is meant before one that they would fit.
    const inOrder = [...operations].sort((a, b) => a.template.split('{').length - b.template.split('{').length);
    this.patterns = inOrder.map((operation) => ({
      operation,
      pattern: new RegExp(`^${operation.template.replaceAll(/\{\w+\}/g, '[^/]+')}$`),
    }));
  }

  note(method: string, url: string, status: number): void {
    const path = url.split('?')[0]!;
    const found = this.patterns.find(({ operation, pattern }) => operation.method === method && pattern.test(path));
    if (!found) return;
    const name = nameOf(found.operation);
    this.seen.set(name, (this.seen.get(name) ?? new Set()).add(status));
  }

  has(operation: Operation, status: number): boolean {
    return this.seen.get(nameOf(operation))?.has(status) ?? false;
  }

  /** A client whose every answer is noted. */
  client(base: string, token: string | undefined): Client {
    const plain = clientWith(base, token);
    const call = async (method: string, path: string, asked?: Call): Promise<Answer> => {
      const answer = path.startsWith('/v1/events')
        ? await beginning(base, token, method, path, asked)
        : await plain.call(method, path, asked);
      this.note(method, path, answer.status);
      return answer;
    };
    return {
      ...plain,
      call,
      get: (path, headers) => call('GET', path, { headers }),
      post: (path, json, headers) => call('POST', path, { json, headers }),
      patch: (path, json, headers) => call('PATCH', path, { json, headers }),
      delete: (path, headers) => call('DELETE', path, { headers }),
    };
  }

  /** Documented and never seen. */
  get missing(): string[] {
    return this.operations.flatMap((operation) =>
      operation.statuses
        .filter((status) => !this.has(operation, status))
        .map((status) => `${nameOf(operation)} ${status}`),
    );
  }

  /** Seen and not documented. */
  get undocumented(): string[] {
    return this.operations.flatMap((operation) =>
      [...(this.seen.get(nameOf(operation)) ?? [])]
        .filter((status) => !operation.statuses.includes(status))
        .map((status) => `${nameOf(operation)} ${status}`),
    );
  }
}

/** As far as the headers of a stream, which has no end. */
async function beginning(
  base: string,
  token: string | undefined,
  method: string,
  path: string,
  { headers = {} }: Call = {},
): Promise<Answer> {
  const ending = new AbortController();
  const authorization = token === undefined ? undefined : { authorization: `Bearer ${token}` };
  const response = await fetch(base + path, {
    method,
    headers: { ...authorization, ...headers },
    signal: ending.signal,
  });
  ending.abort();
  return { status: response.status, headers: response.headers, text: '', body: undefined };
}
