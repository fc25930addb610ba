/**
 * Closes a network that is no longer this machine's to carry, at once and without deleting it: nothing goes in or out of
 * its router or to other nodes any more, and guests on its bridge do not reach each other. Applying or removing it is the undo.
 */
import type { Ref } from '#libs/drivers/contract';
import { applyAgentRules } from './agent-rules.js';
import { deleteLink, isMissing } from './links.js';
import { bridgeName, overlayName, routerPortName } from './names.js';
import type { Parts } from './parts.js';
import { removeUplink } from './uplink.js';
import { closed, closeOpenings } from './way-out.js';

export async function halt(parts: Parts, ref: Ref): Promise<void> {
  const { runner, records, context, options } = parts;
  const { installation } = context;
  const record = await records.load(ref.id);
  parts.announcer.forget(ref.id);
  await parts.alone('', async () => {
    const stale = await closeOpenings(parts, ref.id, record?.openings ?? [], closed);
    await applyAgentRules(runner, installation, options.uplink, stale);
  });
  await removeUplink(runner, installation, ref.id);
  await deleteLink(runner, routerPortName(installation, ref.id));
  await deleteLink(runner, overlayName(installation, ref.id));
  try {
    // Its ports forward nothing then, whatever they are.
    await runner.run(['ip', 'link', 'set', 'dev', bridgeName(installation, ref.id), 'down']);
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
}
