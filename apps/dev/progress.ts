/** What `npm start` prints while it starts: a line for each thing that is done, with the time that it took. */

export interface Progress {
  /** Runs a step and prints what it was and how long it took; where it takes long, that it is under way. */
  step<T>(what: string, work: () => Promise<T>): Promise<T>;
  say(message: string): void;
}

const impatienceMs = 3_000;

export function consoleProgress(write: (line: string) => void = (line) => console.log(line)): Progress {
  return {
    say: (message) => write(`  ${message}`),
    async step(what, work) {
      const started = performance.now();
      const timer = setTimeout(() => write(`  … ${what}`), impatienceMs);
      try {
        const result = await work();
        write(`  ✓ ${what} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
        return result;
      } finally {
        clearTimeout(timer);
      }
    },
  };
}
