/**
 * The Unix sockets of one migration, `/run/rhyzome/<operation>/…`. libvirt has both sides use the same paths
 * (virsh(1), migrate with unix: URIs): at home the agent listens there and carries each connection to the other node,
 * where QEMU listens.
 */
import { chown, mkdir, rm, stat } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { DriverError } from '#libs/drivers/contract';

export const channels = ['libvirt', 'memory', 'disks'] as const;
export type SocketChannel = (typeof channels)[number];

const runDir = '/run/rhyzome';
/** libvirtd's, or that of the daemon for QEMU alone where there is one for each driver. */
const libvirtSockets = ['/run/libvirt/libvirt-sock', '/run/libvirt/virtqemud-sock'];
/** libvirt gives it to the user that its emulators run as. */
const emulatorsOwn = '/var/lib/libvirt/qemu';

export class MigrationSockets {
  /** `root`: where the machine's / lies for this process; empty unless it looks into another mount namespace. */
  constructor(
    private readonly root: string,
    private readonly operationId: string,
  ) {}

  /** As libvirt and QEMU are told it. */
  path(channel: SocketChannel): string {
    return join(runDir, this.operationId, channel);
  }

  /** A new directory, that only the emulators' user gets into. */
  async prepare(): Promise<void> {
    await this.remove();
    const dir = this.seen(join(runDir, this.operationId));
    await mkdir(this.seen(runDir), { recursive: true, mode: 0o711 });
    await mkdir(dir, { mode: 0o700 });
    const { uid, gid } = await stat(this.seen(emulatorsOwn));
    await chown(dir, uid, gid);
  }

  async remove(): Promise<void> {
    await rm(this.seen(join(runDir, this.operationId)), { recursive: true, force: true });
  }

  /** Listens on all of them; `carry` gets each connection. The result ends it. */
  async listen(carry: (channel: SocketChannel, socket: Socket) => void): Promise<() => Promise<void>> {
    const servers: Server[] = [];
    const sockets = new Set<Socket>();
    const close = async () => {
      for (const socket of sockets) socket.destroy();
      for (const server of servers) await new Promise<void>((resolve) => server.close(() => resolve()));
      await this.remove();
    };
    await this.prepare();
    try {
      for (const channel of channels) {
        const server = createServer((socket) => {
          sockets.add(socket);
          socket.once('close', () => sockets.delete(socket));
          carry(channel, socket);
        });
        servers.push(server);
        await new Promise<void>((resolve, reject) => {
          server.once('error', reject);
          server.listen(this.seen(this.path(channel)), resolve);
        });
        await this.giveToEmulators(channel);
      }
    } catch (error) {
      await close();
      throw error;
    }
    return close;
  }

  /** Connects to what listens there. Throws DriverError `hypervisor_unreachable`. */
  async connect(channel: SocketChannel): Promise<Socket> {
    const paths = channel === 'libvirt' ? libvirtSockets : [this.path(channel)];
    let failure: unknown;
    for (const path of paths) {
      try {
        return await connected(this.seen(path));
      } catch (error) {
        failure = error;
      }
    }
    throw new DriverError('hypervisor_unreachable', `Nothing listens for the ${channel} of a migration.`, {
      cause: failure,
    });
  }

  private async giveToEmulators(channel: SocketChannel): Promise<void> {
    const { uid, gid } = await stat(this.seen(emulatorsOwn));
    await chown(this.seen(this.path(channel)), uid, gid);
  }

  private seen(path: string): string {
    return `${this.root}${path}`;
  }
}

function connected(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.off('error', reject);
      resolve(socket);
    });
  });
}

/** Carries bytes both ways until either side ends; what one side did not say in the end, the other notices by its end. */
export function carryBothWays(one: Duplex, other: Duplex): void {
  for (const [from, to] of [
    [one, other],
    [other, one],
  ] as const) {
    from.pipe(to);
    from.on('error', () => to.destroy());
    from.on('close', () => to.destroy());
  }
}
