/** Structured logs, one JSON object a line on stdout; what may be a secret is cut out by its name. */
import { type Logger, pino } from 'pino';

const secrets = ['authorization', 'password', 'token', 'secret', 'key', 'cookie', 'clientSecret'];

export function createLog(program: string, level: string): Logger {
  return pino({
    level,
    base: { process: program, pid: process.pid },
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: { paths: [...secrets, ...secrets.map((name) => `*.${name}`)], censor: '[redacted]' },
  });
}

export type { Logger };
