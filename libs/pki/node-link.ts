/**
 * Connections from node to node: mutual TLS, both sides with their nodes' certificates. These are no servers' (their
 * extended key usage says clients only, RFC 5280 section 4.2.1.12), so that no node passes for one anywhere else; here,
 * and only here, one side is dialled all the same, and the side that dials checks the other's chain by itself. Says who
 * the other side is and nothing of what it may do; one that was revoked is nobody, from the moment that this is known.
 */
import { X509Certificate } from 'node:crypto';
import { connect, createServer, type DetailedPeerCertificate, type PeerCertificate, type TLSSocket } from 'node:tls';
import { assertChain, assertValidAt, parseCertificates } from './credentials.js';
import { PkiError } from './errors.js';
import { identifyClient, shownBy } from './peer.js';
import type { ShownCertificate } from './revocations.js';
import type { CredentialsSource } from './watch.js';

export interface NodeListener {
  /** host:port, as it came to be. */
  readonly address: string;
  /** Ends it and every connection. */
  close(): Promise<void>;
}

export interface ListenOptions {
  /** host:port; port 0: any. */
  listen: string;
  credentials: CredentialsSource;
  /** A node of this trust domain has connected. */
  onNode: (name: string, socket: TLSSocket) => void;
  /** Somebody was turned away. */
  onRefused: (error: Error) => void;
}

/** A side that waits for the other's word sends nothing: so long until it is asked whether there is still anybody (ms). */
const KEEP_ALIVE_MS = 10_000;
/** How long a handshake may take (ms). */
const HANDSHAKE_MS = 15_000;
const MOST_CONNECTIONS = 500;

/** Rejects when the address cannot be listened on. */
export async function listenForNodes(options: ListenOptions): Promise<NodeListener> {
  const { credentials, onNode, onRefused } = options;
  const open = new Set<TLSSocket>();
  const contextOf = () => {
    const { ca, cert, key } = credentials.current;
    return { ca, cert, key };
  };
  const handshake = { requestCert: true, rejectUnauthorized: true, handshakeTimeout: HANDSHAKE_MS };
  const server = createServer({ ...contextOf(), ...handshake }, (socket) => {
    open.add(socket);
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    socket.once('close', () => open.delete(socket));
    // Whoever uses the connection hears of its end by its streams; before that there is nobody to tell.
    socket.on('error', () => undefined);
    try {
      const node = nodeOf(socket.getPeerCertificate(), credentials);
      endWhenRevoked(socket, node, credentials);
      onNode(node.name, socket);
    } catch (error) {
      socket.destroy();
      onRefused(error as Error);
    }
  });
  server.maxConnections = MOST_CONNECTIONS;
  server.on('tlsClientError', onRefused);
  const unsubscribe = credentials.subscribe(() => server.setSecureContext(contextOf()));
  const { host, port } = splitAddress(options.listen);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, resolve);
  });
  const bound = server.address() as { port: number };
  return {
    address: `${host.includes(':') ? `[${host}]` : host}:${bound.port}`,
    async close() {
      unsubscribe();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of open) socket.destroy();
      await closed;
    },
  };
}

/** Connects to a node, which must be the one that is named. Rejects with the reason; an abort with the signal's. */
export function dialNode(options: {
  address: string;
  node: string;
  credentials: CredentialsSource;
  signal: AbortSignal;
}): Promise<TLSSocket> {
  const { credentials, node, signal } = options;
  signal.throwIfAborted();
  const { ca, cert, key } = credentials.current;
  const { host, port } = splitAddress(options.address);
  return new Promise((resolve, reject) => {
    // TLS proves that the other side has its certificate's key; whose that is, is checked below, before a byte is sent.
    const socket = connect({ host, port, ca, cert, key, rejectUnauthorized: false });
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    const timer = setTimeout(() => socket.destroy(new Error(`${options.address} does not answer.`)), HANDSHAKE_MS);
    const abort = () => socket.destroy(signal.reason as Error);
    signal.addEventListener('abort', abort, { once: true });
    const settle = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', abort);
      socket.off('error', fail);
      // Whoever uses the connection hears of its end by its streams.
      socket.on('error', () => undefined);
    };
    const fail = (error: Error) => {
      settle();
      socket.destroy();
      reject(error);
    };
    socket.once('error', fail);
    socket.once('secureConnect', () => {
      try {
        endWhenRevoked(socket, assertNode(socket, node, credentials), credentials);
      } catch (error) {
        return fail(error as Error);
      }
      settle();
      resolve(socket);
    });
  });
}

const CLIENT_AUTH = '1.3.6.1.5.5.7.3.2';
/** A leaf and its intermediates. */
const MOST_CERTIFICATES = 5;

/** Throws PkiError unless the other side has shown the certificate of that node. */
function assertNode(socket: TLSSocket, node: string, credentials: CredentialsSource): ShownCertificate {
  const [leaf, ...intermediates] = chainOf(socket);
  const files = { ca: 'our CA', cert: 'the other node’s certificate' };
  if (!leaf) throw new PkiError('certificate_unparsable', 'The other side shows no certificate.');
  if (leaf.ca || !leaf.keyUsage?.includes(CLIENT_AUTH)) {
    throw new PkiError('identity_malformed', 'The other side’s certificate is no node’s.');
  }
  const now = new Date();
  assertValidAt(leaf, files.cert, now);
  const roots = parseCertificates(credentials.current.ca, files.ca, 'the CA');
  assertChain(leaf, intermediates, roots, files, now);
  const { subjectAltName: subjectaltname, serialNumber, validFrom: valid_from } = leaf;
  const shown = nodeOf({ subjectaltname, serialNumber, valid_from }, credentials);
  if (shown.name === node) return shown;
  throw new PkiError('identity_malformed', `There is node “${shown.name}”, not “${node}”.`);
}

/** Its streams end with the reason. */
function endWhenRevoked(socket: TLSSocket, shown: ShownCertificate, credentials: CredentialsSource): void {
  const end = credentials.watchRefusals?.(() => {
    const refusal = credentials.refusalOf?.(shown);
    if (refusal) socket.destroy(refusal);
  });
  if (end) socket.once('close', end);
}

/** As the other side sent it, the leaf first. */
function chainOf(socket: TLSSocket): X509Certificate[] {
  const chain: X509Certificate[] = [];
  let shown: DetailedPeerCertificate | undefined = socket.getPeerCertificate(true);
  while (shown?.raw && chain.length < MOST_CERTIFICATES) {
    chain.push(new X509Certificate(shown.raw));
    // A root is its own issuer.
    shown = shown.issuerCertificate === shown ? undefined : shown.issuerCertificate;
  }
  return chain;
}

/** Throws PkiError for what is no node of the same trust domain, or was revoked. */
function nodeOf(
  certificate: Pick<PeerCertificate, 'subjectaltname' | 'serialNumber' | 'valid_from'>,
  credentials: CredentialsSource,
): ShownCertificate {
  const { trustDomain } = credentials.current.identity;
  const peer = identifyClient(certificate, trustDomain);
  const shown = shownBy(certificate, peer);
  const refusal = credentials.refusalOf?.(shown);
  if (refusal) throw refusal;
  if (peer.type === 'node') return shown;
  throw new PkiError('identity_malformed', `The other side is ${peer.type} “${peer.name}”, not a node.`);
}

function splitAddress(address: string): { host: string; port: number } {
  const [, bracketed, plain, port] = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(address) ?? [];
  const host = bracketed ?? plain;
  if (host === undefined || port === undefined) throw new PkiError('name_malformed', `“${address}” is not host:port.`);
  return { host, port: Number(port) };
}
