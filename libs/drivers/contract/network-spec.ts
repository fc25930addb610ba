/** What a node is told of a network, as the JSON that the controller sends. */

/** A virtual network of one tenant. Addresses IPv4 in dotted form, IPv6 as RFC 5952 writes them. */
export interface NetworkSpec {
  /** CIDR without host bits, e.g. 10.20.0.0/24. */
  subnet: string;
  gateway: string;
  /** IPv6 CIDR without host bits; a /64 is for SLAAC (RFC 4862), a longer prefix for DHCPv6 (RFC 8415). Null: no IPv6. */
  subnet6: string | null;
  gateway6: string | null;
  /** MAC of the gateway; follows from the network's id, the same on every node. */
  gatewayMac: string;
  /** Resolvers handed out by DHCP; empty: the gateway itself forwards. */
  dns: string[];
  domain: string | null;
  mtu: number;
  /** Every address that anything may have on this network; nothing else gets one. */
  leases: LeaseSpec[];
  /** Public addresses that belong to one guest each, both ways (1:1 NAT). */
  publicAddresses: PublicAddressSpec[];
  /** Ports of public addresses that lead to a guest. */
  forwards: ForwardSpec[];
  /**
   * In their order, the first that matches decides; empty: everything may pass, as without a firewall. What no rule
   * matches: `out` passes; `in` passes only to guests of which no `in` rule says what is allowed. From guest to guest is
   * `out` of one and `in` of the other, and both must pass. DHCP, DNS, ARP, neighbour discovery and metadata between a
   * guest and its router always pass.
   */
  firewall: FirewallRuleSpec[];
  /** The network's VPN door; null: it has none. */
  wireguard: WireguardSpec | null;
  /** How it spans other nodes; null or absent: it is on this machine alone, with its router. */
  overlay?: OverlaySpec | null;
}

export interface LeaseSpec {
  ip: string;
  mac: string;
  hostname: string | null;
  /** Null where the network has no IPv6. */
  ip6: string | null;
  /** Which of the overlay's nodes it is on; null or absent: it is on this machine, or nowhere. */
  node?: number | null;
}

/**
 * A network that stands on several nodes: its frames go between them in VXLAN (RFC 7348), to the node that has the
 * destination and to no other. All its routing is done by one of them; the others have no parts of its router: there
 * publicAddresses, forwards, firewall, wireguard and host names are empty.
 */
export interface OverlaySpec {
  /** Of this network alone in the whole installation. */
  vni: number;
  /** This machine's address among the nodes, and the UDP port at which it listens. */
  address: string;
  port: number;
  /** The others that have the network. */
  nodes: OverlayNode[];
  /** Which of them has the router; null: this machine. */
  router: number | null;
  /** The network has a firewall, which its router is: no guest's packet goes past it. */
  walled: boolean;
}

/** No guest's MAC: what answers guests at the metadata address has it where their router is on another node. */
export const annexMac = '0e:52:5a:fe:a9:fe';

export interface OverlayNode {
  address: string;
  port: number;
}

export interface PublicAddressSpec {
  publicIp: string;
  ip: string;
}

export interface ForwardSpec {
  publicIp: string;
  protocol: 'tcp' | 'udp';
  port: number;
  ip: string;
  targetPort: number;
}

/**
 * Stateful: answers to what was let through pass, and a connection that stands is asked again when the rules change.
 * Addresses and ports are the guest's own, not the public ones before them. Selectors are resolved to addresses by the
 * controller.
 */
export interface FirewallRuleSpec {
  id: string;
  /** Seen from the guests. */
  direction: 'in' | 'out';
  action: 'allow' | 'deny';
  protocol: 'any' | 'tcp' | 'udp' | 'icmp';
  /** Destination ports of tcp and udp; empty: all. */
  ports: { from: number; to: number }[];
  /** The other side: addresses or CIDRs of either family; null: anybody. */
  remotes: string[] | null;
  /** The guests that it is about: addresses of either family; null: all of the network. */
  guests: string[] | null;
}

/** A WireGuard interface in the network's router. Keys are base64 (32 bytes). */
export interface WireguardSpec {
  privateKey: string;
  /** UDP port on the node's uplink. */
  port: number;
  /** The router's own address in the tunnel, CIDR. */
  address: string;
  peers: { publicKey: string; presharedKey: string | null; allowedIps: string[] }[];
}

export interface NetworkStatus {
  /** Where peers reach the VPN door, `address:port`; absent without one or without an uplink. */
  wireguardEndpoint?: string;
}
