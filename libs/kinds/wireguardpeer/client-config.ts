/** A peer's configuration as wg-quick(8) and the WireGuard apps read it. Everything in it has been checked before. */

export interface ClientConfig {
  name: string;
  /** Undefined: a placeholder, for whoever has the key. */
  privateKey?: string;
  address: string;
  serverPublicKey: string;
  /** True: there is one, and it is not told. */
  hasPresharedKey: boolean;
  allowedAddresses: readonly string[];
  /** Null: not known before the network stands on a node. */
  endpoint: string | null;
}

export const KEY_PLACEHOLDER = '<the private key>';
export const PRESHARED_PLACEHOLDER = '<the pre-shared key>';

export function clientConfig(config: ClientConfig): string {
  const lines = [
    `# ${config.name}`,
    '[Interface]',
    `PrivateKey = ${config.privateKey ?? KEY_PLACEHOLDER}`,
    `Address = ${config.address}/32`,
    '',
    '[Peer]',
    `PublicKey = ${config.serverPublicKey}`,
    ...(config.hasPresharedKey ? [`PresharedKey = ${PRESHARED_PLACEHOLDER}`] : []),
    `AllowedIPs = ${config.allowedAddresses.join(', ')}`,
    config.endpoint === null
      ? '# Endpoint = (known as soon as the network stands on a node)'
      : `Endpoint = ${config.endpoint}`,
    // So that those behind NAT are reached, too.
    'PersistentKeepalive = 25',
  ];
  return `${lines.join('\n')}\n`;
}
