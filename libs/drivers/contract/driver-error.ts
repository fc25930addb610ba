/** `permanent`: trying the same again cannot help. */
export class DriverError extends Error {
  override readonly name = 'DriverError';
  constructor(
    readonly code: string,
    message: string,
    readonly options: { permanent?: boolean; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause });
  }
  get permanent(): boolean {
    return this.options.permanent ?? false;
  }
}
