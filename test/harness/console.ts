/** A WebSocket at an instance's console, and what came to it. */
import { once } from 'node:events';
import WebSocket from 'ws';

export class ConsoleClient {
  text = '';
  /** What was said of the keyboard, in its order. */
  readonly keyboard: boolean[] = [];
  code = 0;
  reason = '';

  private constructor(readonly socket: WebSocket) {
    socket.on('message', (data, isBinary) => {
      if (isBinary) this.text += data.toString();
      else this.keyboard.push(JSON.parse(data.toString()).has);
    });
    socket.on('close', (code, reason) => {
      this.code = code;
      this.reason = reason.toString();
    });
    socket.on('error', () => undefined); // The close says it.
  }

  /** Resolves when it is open; rejects with the status where it is refused. */
  static async attach(base: string, token: string, instance: string, query = ''): Promise<ConsoleClient> {
    const url = `${base.replace('http', 'ws')}/v1/instances/${instance}/console/attach${query}`;
    const client = new ConsoleClient(new WebSocket(url, ['rhyzome.console', `bearer.${token}`]));
    await once(client.socket, 'open');
    return client;
  }

  type(text: string): void {
    this.socket.send(Buffer.from(text));
  }

  close(): void {
    this.socket.close(1000);
  }
}
