/** QEMU's own monitor (QMP, QEMU's docs/interop/qmp-spec) through libvirt, for what libvirt has no call for. */
import { DriverError } from '#libs/drivers/contract';
import { toDiskError } from './qcow2.js';
import type { Virsh } from './virsh.js';

interface BlockNode {
  'node-name'?: string;
  drv?: string;
  file?: string;
}

/** Runs a QMP command on a machine that is on. Throws DriverError with what QEMU says of it. */
export async function monitor(virsh: Virsh, domain: string, execute: string, args: object = {}): Promise<unknown> {
  const answer = JSON.parse(
    await virsh.run(['qemu-monitor-command', domain, JSON.stringify({ execute, arguments: args })]),
  ) as { return?: unknown; error?: { desc: string } };
  if (!answer.error) return answer.return;
  const failure = new DriverError('hypervisor_refused', answer.error.desc);
  throw toDiskError(failure);
}

/** Name of the block node that has this qcow2 file open. */
export async function formatNode(virsh: Virsh, domain: string, path: string): Promise<string> {
  const nodes = (await monitor(virsh, domain, 'query-named-block-nodes', { flat: true })) as BlockNode[];
  const name = nodes.find(({ drv, file }) => drv === 'qcow2' && fileOf(file ?? '') === path)?.['node-name'];
  if (name === undefined) throw new DriverError('in_use', 'The machine has the disk open in a way not known here.');
  return name;
}

/** A file's name as it was given; in JSON where QEMU was told more of it than the name says (qemu(1), -drive). */
function fileOf(name: string): unknown {
  if (!name.startsWith('json:')) return name;
  return (JSON.parse(name.slice('json:'.length)) as { file?: { filename?: unknown } }).file?.filename;
}
