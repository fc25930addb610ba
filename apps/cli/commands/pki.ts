/**
 * `rhyzome pki`: a CA for one's own nodes, and a look at certificates. Touches files only; what was issued over the network
 * and what was revoked is pki-records.ts.
 */
import { Command, InvalidArgumentError, Option } from 'commander';
import {
  ensureIssuer,
  finishInstall,
  type IdentityType,
  type IssuerFiles,
  identityTypes,
  identityUri,
  initPki,
  issueCertificate,
  loadCredentials,
  PKI_EXIT_STATUS,
  PkiError,
  showCertificate,
  verifyCredentials,
} from '#libs/pki';
import type { Context } from '../context.js';
import { CliError, exitStatus } from '../exit-status.js';
import { listIssued, revokeIssued } from './pki-records.js';

interface JsonOption {
  json?: boolean;
}

/** The subcommand with its own subcommands. They set `process.exitCode`: 0, or 78 when files cannot be used. */
export function pkiCommand(context: Context): Command {
  return new Command('pki')
    .description('a PKI for your own servers, nodes and services')
    .addCommand(initCommand())
    .addCommand(issueCommand())
    .addCommand(showCommand())
    .addCommand(verifyCommand())
    .addCommand(renewCommand())
    .addCommand(listIssued(context))
    .addCommand(revokeIssued(context));
}

function initCommand(): Command {
  return new Command('init')
    .description('make a root CA and an issuer for rhyzome-grpc, or find those that are there')
    .requiredOption('--dir <dir>', 'directory of the CA; keep it off the servers')
    .option('--trust-domain <name>', 'whose certificates these are (default: rhyzome.internal)')
    .option('--name <text>', 'common name of the root')
    .option('--days <n>', 'validity (default: 3650)', days)
    .option('--json', 'print JSON')
    .action((options: { dir: string; trustDomain?: string; name?: string; days?: number } & JsonOption) =>
      report(options, async () => {
        const made = await initPki(options);
        const issuer = await ensureIssuer(options.dir);
        const what = made.created ? 'Made the CA' : 'Found the CA';
        return {
          result: {
            ...made,
            issuer: issuer ?? { cert: made.ca, key: made.caKey, notAfter: made.notAfter, created: false },
          },
          text: `${what} ${made.ca} of the trust domain ${made.trustDomain}, valid until ${day(made.notAfter)}.\n${issuerWords(issuer)}`,
        };
      }),
    );
}

function issuerWords(issuer: IssuerFiles | undefined): string {
  if (!issuer)
    return 'It was made before there were issuers and allows no CA below it: for pki.issuer, name the CA itself, or make another.';
  const what = issuer.created ? 'Made the issuer' : 'Found the issuer';
  return `${what} ${issuer.cert} for rhyzome-grpc (pki.issuer), valid until ${day(issuer.notAfter)}.`;
}

function issueCommand(): Command {
  return new Command('issue')
    .description('issue a certificate with its key')
    .addOption(new Option('--type <type>', 'what it is for').choices(identityTypes).makeOptionMandatory())
    .requiredOption('--name <name>', 'which one; a node’s name is the name that the controller knows it by')
    .requiredOption('--dir <dir>', 'directory of the CA')
    .option('--dns <name>', 'name that clients dial (servers only; may be repeated)', collect, [])
    .option('--ip <address>', 'address that clients dial (servers only; may be repeated)', collect, [])
    .option('--out <dir>', 'directory for the files (default: the CA’s)')
    .option('--days <n>', 'validity (default: 365)', days)
    .option('--force', 'replace files that are there, to renew')
    .option('--json', 'print JSON')
    .action((options: IssueFlags & JsonOption) =>
      report(options, async () => {
        const issued = await issueCertificate(options);
        const text = `Issued ${issued.identity}, valid until ${day(issued.notAfter)}:\n  ca   ${issued.ca}\n  cert ${issued.cert}\n  key  ${issued.key}`;
        return { result: issued, text };
      }),
    );
}

interface IssueFlags {
  dir: string;
  type: IdentityType;
  name: string;
  dns: string[];
  ip: string[];
  out?: string;
  days?: number;
  force?: boolean;
}

function showCommand(): Command {
  return new Command('show')
    .description('tell what stands in a certificate file')
    .argument('<file>', 'PEM file')
    .option('--json', 'print JSON')
    .action((file: string, options: JsonOption) =>
      report(options, async () => {
        const certificates = await showCertificate(file);
        const text = certificates.map((certificate) =>
          [
            `${certificate.ca ? 'CA' : 'Certificate'} ${certificate.subject}`,
            `  identity    ${certificate.identity ?? 'none'}`,
            `  names       ${certificate.names.join(', ') || 'none'}`,
            `  issuer      ${certificate.issuer}`,
            `  valid       ${certificate.notBefore} to ${certificate.notAfter}`,
            `  serial      ${certificate.serial}`,
            `  fingerprint ${certificate.fingerprint}`,
          ].join('\n'),
        );
        return { result: certificates, text: text.join('\n') };
      }),
    );
}

function verifyCommand(): Command {
  return new Command('verify')
    .description('check whether a process could serve or dial with these files')
    .requiredOption('--ca <file>', 'PEM file of the CA')
    .requiredOption('--cert <file>', 'PEM file of the certificate')
    .requiredOption('--key <file>', 'PEM file of the key')
    .option('--json', 'print JSON')
    .action((options: { ca: string; cert: string; key: string } & JsonOption) =>
      report(options, async () => {
        const verdict = await verifyCredentials(options);
        if (!verdict.ok) throw new PkiError(verdict.code, verdict.message, verdict.file ?? undefined);
        return {
          result: verdict,
          text: `Good: ${verdict.identity}, ${verdict.daysLeft} days left (until ${verdict.notAfter}).`,
        };
      }),
    );
}

interface RenewFlags extends JsonOption {
  controller: string;
  serverName?: string;
  ca: string;
  cert: string;
  key: string;
}

function renewCommand(): Command {
  return new Command('renew')
    .description('renew a service’s certificate over the network, by showing it; agents do so by themselves')
    .requiredOption('--controller <address>', 'host:port or unix:/path of a rhyzome-grpc (grpc.listen)')
    .option('--server-name <name>', 'what its certificate must hold for (default: the host)')
    .requiredOption('--ca <file>', 'PEM file of the CA')
    .requiredOption('--cert <file>', 'PEM file of the certificate; it is replaced')
    .requiredOption('--key <file>', 'PEM file of the key; it is replaced by a new one')
    .option('--json', 'print JSON')
    .action((options: RenewFlags) => report(options, () => renew(options)));
}

async function renew({ controller: target, serverName, ca, cert, key }: RenewFlags) {
  const paths = { ca, cert, key };
  await finishInstall(paths);
  const present = await loadCredentials(paths);
  const { problemOf, renewCertificate } = await import('#libs/rpc');
  try {
    const { identity, notAfter, fingerprint } = await renewCertificate({ target, serverName }, present);
    const uri = identityUri(identity);
    return {
      result: { identity: uri, notAfter, fingerprint, ...paths },
      text: `Renewed ${uri}, valid until ${notAfter.toISOString()}:\n  cert ${cert}\n  key  ${key}`,
    };
  } catch (error) {
    const problem = problemOf(error);
    if (problem) throw problem;
    const { code, message } = error as { code?: unknown; message: string };
    if (error instanceof PkiError || typeof code !== 'number') throw error;
    throw new CliError(exitStatus.refused, 'controller_away', `${target} does not renew it: ${message}`, {
      cause: error,
    });
  }
}

/** Prints the result, or what is wrong: JSON on standard output with `--json`, else words on standard error. */
async function report(options: JsonOption, work: () => Promise<{ result: unknown; text: string }>): Promise<void> {
  try {
    const { result, text } = await work();
    process.stdout.write(`${options.json ? JSON.stringify(result, null, 2) : text}\n`);
  } catch (error) {
    if (!(error instanceof PkiError)) throw error;
    const { code, message, file = null } = error;
    if (options.json) process.stdout.write(`${JSON.stringify({ ok: false, code, file, message }, null, 2)}\n`);
    else process.stderr.write(`rhyzome: ${message}\n`);
    process.exitCode = PKI_EXIT_STATUS;
  }
}

function day(date: Date): string {
  return date.toISOString().slice(0, 10);
}

function collect(value: string, before: string[]): string[] {
  return [...before, value];
}

function days(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < 1 || value > 36_500)
    throw new InvalidArgumentError('It must be a number from 1 to 36500.');
  return value;
}
