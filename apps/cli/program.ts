/** The command line of `rhyzome`: its subcommands, its help, and how errors end it. */
import { Command, CommanderError } from 'commander';
import { alarmCommand } from './commands/alarm.js';
import { auditCommand } from './commands/audit.js';
import { backupCommand } from './commands/backup.js';
import { dbCommand } from './commands/db.js';
import { diskCommand } from './commands/disk.js';
import { generateCommand } from './commands/generate.js';
import { imageCommand } from './commands/image.js';
import { instanceCommand } from './commands/instance.js';
import { jobCommand } from './commands/job.js';
import { loginCommand } from './commands/login.js';
import { logoutCommand } from './commands/logout.js';
import { networkCommand } from './commands/network.js';
import { nodeCommand } from './commands/node.js';
import { placementCommand } from './commands/placement.js';
import { poolCommand } from './commands/pool.js';
import { quotaCommand } from './commands/quota.js';
import { restoreCommand } from './commands/restore.js';
import { serviceCommand } from './commands/service.js';
import { sweepCommand } from './commands/sweep.js';
import { tenantCommand } from './commands/tenant.js';
import { tokenCommand } from './commands/token.js';
import { whoamiCommand } from './commands/whoami.js';
import { Context, type Globals, type Terminal } from './context.js';
import { exitStatus, exitStatusHelp, tellError } from './exit-status.js';
import { programVersion } from './installed.js';

const commands = [
  tenantCommand,
  quotaCommand,
  poolCommand,
  dbCommand,
  backupCommand,
  restoreCommand,
  serviceCommand,
  nodeCommand,
  placementCommand,
  sweepCommand,
  imageCommand,
  diskCommand,
  instanceCommand,
  networkCommand,
  jobCommand,
  alarmCommand,
  auditCommand,
  generateCommand,
  loginCommand,
  logoutCommand,
  whoamiCommand,
  tokenCommand,
];

const examples = `
Examples:
  rhyzome db migrate
  rhyzome tenant create acme --display-name 'Acme Ltd' --issuer https://id.example/realms/acme
  rhyzome image import debian-12 ./debian-12.qcow2 --tag os=debian --os-info version=12
  rhyzome service create billing --tenants '*' --verbs '*:read'
  rhyzome node list --json

${exitStatusHelp}
`;

/** Runs one command line and returns the exit status. `argv` without node and script. */
export async function runCli(argv: readonly string[], terminal: Terminal): Promise<number> {
  const { program, context } = await buildProgram(argv, terminal);
  // `pki` ends by process.exitCode.
  const before = process.exitCode;
  process.exitCode = undefined;
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return Number(process.exitCode ?? context.status);
  } catch (error) {
    return report(error, terminal, program.opts<Globals>().json ?? false);
  } finally {
    process.exitCode = before;
  }
}

async function buildProgram(
  argv: readonly string[],
  terminal: Terminal,
): Promise<{ program: Command; context: Context }> {
  const program = new Command('rhyzome')
    .description('Administers Rhyzome, straight on its database.')
    .version(programVersion(), '--version', 'print the version')
    .option('--config <file>', 'the settings (default: ./rhyzome-api.json, else /etc/rhyzome/rhyzome-api.json)')
    .option('--json', 'print JSON')
    .configureHelp({ showGlobalOptions: true })
    .addHelpText('after', examples);
  const context = new Context(terminal, () => program.opts<Globals>());
  for (const make of commands) program.addCommand(make(context));
  program.addCommand(await pki(argv, context));
  // The program takes --json wherever it stands; subcommands that have one of their own are told.
  program.hook('preAction', (_program, action) => {
    if (program.opts<Globals>().json) action.setOptionValue('json', true);
  });
  settle(program, terminal);
  return { program, context };
}

/** Its libraries take a while to load: only for whoever asks for it. */
async function pki(argv: readonly string[], context: Context): Promise<Command> {
  if (!argv.includes('pki')) return new Command('pki').description('a PKI for your own servers, nodes and services');
  return (await import('./commands/pki.js')).pkiCommand(context);
}

/** Makes a command and all below it throw instead of exiting, and write where the caller wants it. */
function settle(command: Command, terminal: Terminal): void {
  command.exitOverride();
  command.configureOutput({
    writeOut: (text) => terminal.out(text),
    writeErr: (text) => terminal.err(text),
    outputError: (text, write) => write(text.replace(/^error: /, 'rhyzome: ')),
  });
  command.configureHelp({ showGlobalOptions: true });
  command.showHelpAfterError(`(${commandPath(command)} --help says more)`);
  for (const sub of command.commands) settle(sub, terminal);
}

function commandPath(command: Command): string {
  return command.parent ? `${commandPath(command.parent)} ${command.name()}` : command.name();
}

function report(error: unknown, terminal: Terminal, json: boolean): number {
  // Commander has said what is wrong already; help and version are no errors.
  if (error instanceof CommanderError) return error.exitCode === 0 ? exitStatus.ok : exitStatus.usage;
  const told = tellError(error) ?? {
    status: exitStatus.refused,
    code: 'internal',
    message: `this was not foreseen: ${error instanceof Error ? error.stack : String(error)}`,
    details: undefined,
  };
  const { status, code, message, details } = told;
  if (json) terminal.err(`${JSON.stringify({ error: { code, message, ...details } })}\n`);
  else terminal.err(`rhyzome: ${message}\n`);
  return status;
}
