/** The way back of a job: the undos of the steps that have begun, in reverse order, each recorded once it is done. */
import type { JobStep, Waiting } from '#libs/core';
import type { Tx } from '#libs/db';
import type { HeldJob } from './held-job.js';
import { POLL_MS } from './limits.js';
import type { OutsideWork } from './outside.js';
import type { JobStepRow } from './rows.js';
import { setStepState } from './step-rows.js';

interface Undo {
  step: JobStepRow;
  undoOutside?: (signal: AbortSignal, result: any) => Promise<void>;
  undo?: (tx: Tx, result: any) => Promise<void>;
  undone?: (tx: Tx) => Promise<true | Waiting>;
}

export class Undos {
  private readonly undos: Undo[] = [];

  constructor(
    private readonly job: HeldJob,
    private readonly outside: OutsideWork,
  ) {}

  /** In the order in which the steps began. */
  add(row: JobStepRow, { undoOutside, undo, undone }: JobStep<Tx, any, any>): void {
    this.undos.push({ step: row, undoOutside, undo, undone });
  }

  /** Runs them, last first; throws Parked where something is not gone yet. */
  async run(): Promise<void> {
    for (const undo of this.undos.reverse()) await this.undoOne(undo);
  }

  private async undoOne({ step, undoOutside, undo, undone }: Undo): Promise<void> {
    if (step.state === 'undone') return;
    this.outside.assertGoesOn();
    if (step.state !== 'undoing') {
      if (undoOutside)
        await this.outside.run(this.job.row, (signal) => undoOutside(signal, step.result), { phase: 'undo' });
      await this.job.write(async (tx) => {
        await undo?.(tx, step.result);
        await setStepState(tx, step, undone ? 'undoing' : 'undone');
      });
    }
    if (!undone) return;
    await this.job.look('undo', POLL_MS, async (tx) => {
      const state = await undone(tx);
      if (state === true) await setStepState(tx, step, 'undone');
      return state;
    });
  }
}
