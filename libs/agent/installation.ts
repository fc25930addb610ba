/**
 * Which installation this machine belongs to: taken from the first controller that welcomes it, kept for good. A machine
 * that belongs to one installation obeys no other; an administrator who moves it empties the state directory.
 */
import { join } from 'node:path';
import { readJson, writeJsonDurably } from './durable.js';

export class ForeignInstallationError extends Error {
  override readonly name = 'ForeignInstallationError';
  readonly code = 'foreign_installation';
  constructor(mine: string, theirs: string, file: string) {
    super(
      `The controller is of installation ${theirs}, but this machine belongs to ${mine} (${file}). Nothing was changed. Correct the controller's address, or empty the machine and remove its state directory if it really moves.`,
    );
  }
}

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export class Installation {
  private constructor(
    private readonly file: string,
    private known: string | undefined,
  ) {}

  static async load(stateDir: string): Promise<Installation> {
    const file = join(stateDir, 'installation.json');
    const stored = await readJson<{ installationId: string }>(file);
    if (stored && !uuidPattern.test(stored.installationId)) throw new Error(`${file} holds no installation id.`);
    return new Installation(file, stored?.installationId);
  }

  /** UUID; undefined before the first welcome. */
  get id(): string | undefined {
    return this.known;
  }

  /** First 8 hex digits, part of every outer name. */
  get short(): string | undefined {
    return this.known?.slice(0, 8);
  }

  /** Joins on the first welcome; afterwards throws ForeignInstallationError for any other id. */
  async join(installationId: string): Promise<void> {
    if (!uuidPattern.test(installationId)) {
      throw new Error(`The controller gave “${installationId.slice(0, 80)}” as its installation id, which is no UUID.`);
    }
    if (this.known === installationId) return;
    if (this.known !== undefined) throw new ForeignInstallationError(this.known, installationId, this.file);
    await writeJsonDurably(this.file, { installationId });
    this.known = installationId;
  }
}
