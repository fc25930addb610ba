/**
 * What a network has in its namespace on a node that does not have its router: the metadata address alone, since each
 * node knows the guests that it has and no others. The guard turns what guests ask of that address here. Nothing is
 * forwarded.
 */
import { annexMac } from '#libs/drivers/contract';
import type { Runner } from '#libs/drivers/host';
import { nft } from './guard.js';
import { ensurePortPair, ipBatch, lan } from './links.js';
import { metadataAddress, namespaceName } from './names.js';
import type { CheckedNetwork } from './network-spec.js';

const t = 'inet rhyzome';

/** The namespace is there. Undo: as of a router, whose port it is. */
export async function ensureAnnex(
  runner: Runner,
  installation: string,
  id: string,
  spec: CheckedNetwork,
): Promise<void> {
  const namespace = namespaceName(installation, id);
  const rule = (text: string) => `add rule ${t} input ${text}`;
  await nft(
    runner,
    [
      `add table ${t}`,
      `delete table ${t}`,
      `add table ${t}`,
      `add chain ${t} input { type filter hook input priority filter; policy drop; }`,
      `add chain ${t} forward { type filter hook forward priority filter; policy drop; }`,
      rule('iifname "lo" accept'),
      rule('ct state established,related accept'),
      rule(`iifname "${lan}" ip daddr ${metadataAddress} tcp dport 80 accept`),
    ],
    namespace,
  );
  await ensurePortPair(runner, installation, id, spec.mtu);
  await ipBatch(
    runner,
    [
      ['addr', 'replace', `${metadataAddress}/32`, 'dev', lan],
      ['link', 'set', 'dev', lan, 'address', annexMac, 'mtu', String(spec.mtu), 'up'],
      ['route', 'flush', 'dev', lan, 'proto', 'static'],
      ['route', 'replace', spec.subnet, 'dev', lan, 'src', metadataAddress, 'proto', 'static'],
    ],
    namespace,
  );
}
