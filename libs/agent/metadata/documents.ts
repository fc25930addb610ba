/**
 * What a guest can read of itself over the metadata address: Rhyzome's own documents, and as much of EC2's instance
 * metadata as images expect (cloud-init's Ec2 data source, cirros). Pure: a path and a guest give a document.
 */
import type { Guest } from './guests.js';

export interface Document {
  type: 'application/json' | 'text/plain; charset=utf-8' | 'application/x-pem-file' | 'application/octet-stream';
  body: string;
}

/** The document at a path; undefined: there is none. `ca` is the platform's CA as PEM. */
export function documentAt(path: string, guest: Guest, ca: () => string): Document | undefined {
  const { guest: told } = guest.spec;
  switch (path) {
    case '/v1/identity':
      return { type: 'application/json', body: `${JSON.stringify(identityOf(guest), undefined, 2)}\n` };
    case '/v1/user-data':
      return told.userData === null ? undefined : { type: 'application/octet-stream', body: told.userData };
    case '/v1/ssh-keys':
      return text(told.sshKeys.map((key) => `${key}\n`).join(''));
    case '/v1/ca.pem':
      return { type: 'application/x-pem-file', body: ca() };
  }
  // EC2's paths begin with a date or `latest`; all dates get the same.
  const [, rest] = /^\/(?:latest|\d{4}-\d{2}-\d{2})(\/.*)$/.exec(path) ?? [];
  return rest === undefined ? undefined : ec2At(rest, guest);
}

function ec2At(path: string, { ref, spec }: Guest): Document | undefined {
  const { hostname, userData, sshKeys } = spec.guest;
  const [first] = spec.interfaces;
  const values: Record<string, string | undefined> = {
    'instance-id': ref.id,
    hostname,
    'local-hostname': hostname,
    'local-ipv4': first?.ip,
    mac: first?.mac,
    ...(sshKeys.length > 0 && { 'public-keys/': sshKeys.map((_, index) => `${index}=key-${index}`).join('\n') }),
  };
  const plain = (value: string | undefined) => (value === undefined ? undefined : text(value));
  if (path === '/user-data') return plain(userData ?? undefined);
  if (path === '/' || path === '/meta-data') return text(path === '/' ? 'meta-data/\nuser-data' : listOf(values));
  const [, name] = /^\/meta-data\/(.*)$/.exec(path) ?? [];
  if (name === undefined) return undefined;
  if (name === '') return text(listOf(values));
  const [, index, key] = /^public-keys\/(\d{1,3})\/(openssh-key)?$/.exec(name) ?? [];
  if (index !== undefined) return plain(key ? sshKeys[Number(index)] : sshKeys[Number(index)] && 'openssh-key');
  if (name === 'public-keys') return plain(values['public-keys/']);
  return Object.hasOwn(values, name) ? plain(values[name]) : undefined;
}

function listOf(values: Record<string, string | undefined>): string {
  return Object.keys(values)
    .filter((name) => values[name] !== undefined)
    .join('\n');
}

function identityOf({ ref, spec, networks }: Guest): object {
  return {
    id: ref.id,
    name: spec.name,
    tenant: ref.tenantId,
    hostname: spec.guest.hostname,
    tags: spec.guest.tags,
    interfaces: spec.interfaces.map(({ networkId, mac, ip, ip6 }) => ({
      network: networkId,
      mac,
      ip,
      ip6,
      ...networks[networkId],
    })),
  };
}

function text(body: string): Document {
  return { type: 'text/plain; charset=utf-8', body };
}
