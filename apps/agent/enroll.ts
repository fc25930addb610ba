/** `rhyzome-agent enroll`: the one command that makes a machine a node, as `rhyzome node enroll` prints it. */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { EnrollmentError, enrollMachine } from '#libs/agent';
import { ConfigError, findConfig, loadConfig } from '#libs/config';
import { PKI_EXIT_STATUS, PkiError } from '#libs/pki';

const usage = `Usage: rhyzome-agent enroll --controller HOST:PORT --token TOKEN --ca-fingerprint sha256:HEX [options]

Makes this machine a node: makes its key here, fetches its certificate, and writes both where the settings say
(agent.pki, else pki). Run again with the same token after an interruption.

  --controller HOST:PORT     grpc.enrollment of a rhyzome-grpc, or unix:/path
  --token TOKEN              from “rhyzome node enroll NAME”
  --token-file FILE          read the token from a file instead; - for standard input
  --ca-fingerprint sha256:…  of the CA, from the same place
  --server-name NAME         what the controller’s certificate must hold for (default: the host of --controller)
  --name NAME                refuse unless the token is for this node
  --force                    enroll although there is a good certificate already
  --config FILE              the settings (default: ./rhyzome-api.json, else /etc/rhyzome/rhyzome-api.json)
`;

const options = {
  controller: { type: 'string' },
  token: { type: 'string' },
  'token-file': { type: 'string' },
  'ca-fingerprint': { type: 'string' },
  'server-name': { type: 'string' },
  name: { type: 'string' },
  force: { type: 'boolean' },
  config: { type: 'string' },
  help: { type: 'boolean', short: 'h' },
} as const;

const EX_USAGE = 64;

/** Returns the exit status: 0, 1 (refused or not reached), 64 (the command line), 78 (settings or files). */
export async function enrollCommand(args: string[]): Promise<number> {
  let values: ReturnType<typeof parseArgs<{ options: typeof options }>>['values'];
  try {
    ({ values } = parseArgs({ args, options }));
  } catch (error) {
    return fail(EX_USAGE, `${(error as Error).message}\n${usage}`);
  }
  if (values.help) {
    process.stdout.write(usage);
    return 0;
  }
  const { controller, 'ca-fingerprint': caFingerprint, 'token-file': tokenFile } = values;
  if (!controller || !caFingerprint || (values.token === undefined) === (tokenFile === undefined))
    return fail(EX_USAGE, `--controller, --ca-fingerprint and one of --token and --token-file are needed\n${usage}`);
  try {
    const file = findConfig(values.config);
    const config = loadConfig(['agent'], { file });
    const paths = config.agent.pki ?? config.pki;
    if (!paths) return fail(PKI_EXIT_STATUS, `${file} names no agent.pki: {ca, cert, key}, where the files shall lie`);
    const token = (values.token ?? readFileSync(tokenFile === '-' ? 0 : tokenFile!, 'utf8')).trim();
    const { credentials, isNew } = await enrollMachine({
      controller,
      token,
      caFingerprint,
      paths: { ca: paths.ca, cert: paths.cert, key: paths.key },
      stateDir: config.agent.stateDir,
      serverName: values['server-name'],
      nodeName: values.name,
      force: values.force,
      onWait: (seconds) =>
        process.stderr.write(
          `Too many machines enroll at once from this address; asking again in ${Math.ceil(seconds)} s.\n`,
        ),
    });
    const { identity, notAfter } = credentials;
    const what = isNew ? 'This machine is now' : 'This machine is already (--force enrolls it again)';
    process.stdout.write(
      `${what} the node ${identity.name}, until ${notAfter.toISOString()}:\n  ca   ${paths.ca}\n  cert ${paths.cert}\n  key  ${paths.key}\nStart rhyzome-agent.\n`,
    );
    return 0;
  } catch (error) {
    if (error instanceof EnrollmentError) return fail(1, error.message);
    if (error instanceof PkiError || error instanceof ConfigError) return fail(PKI_EXIT_STATUS, error.message);
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === undefined) throw error;
    return fail(PKI_EXIT_STATUS, message);
  }
}

function fail(status: number, message: string): number {
  process.stderr.write(`rhyzome-agent: ${message.trimEnd()}\n`);
  return status;
}
