/** A cable between a process and its database: passes bytes on, and can be cut and mended. */
import { connect, createServer, type Server, type Socket } from 'node:net';

export class Cable {
  private readonly sockets = new Set<Socket>();
  private isCut = false;

  private constructor(
    private readonly server: Server,
    /** host:port of this end. */
    readonly address: string,
  ) {}

  /** To host and port of the other end. */
  static async lay(host: string, port: number): Promise<Cable> {
    const server = createServer();
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    const cable = new Cable(server, `127.0.0.1:${(server.address() as { port: number }).port}`);
    server.on('connection', (near) => cable.pass(near, host, port));
    return cable;
  }

  private pass(near: Socket, host: string, port: number): void {
    if (this.isCut) {
      near.destroy();
      return;
    }
    const far = connect(port, host);
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      this.sockets.add(one);
      one.setNoDelay(true);
      // Its close follows, and takes the other end along.
      one.on('error', () => undefined);
      one.on('close', () => {
        this.sockets.delete(one);
        other.destroy();
      });
      one.pipe(other);
    }
  }

  /** Breaks all connections, and each new one at once. */
  cut(): void {
    this.isCut = true;
    for (const socket of this.sockets) socket.destroy();
  }

  mend(): void {
    this.isCut = false;
  }

  async remove(): Promise<void> {
    this.cut();
    await new Promise((done) => this.server.close(done));
  }
}
