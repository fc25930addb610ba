/**
 * Loaded into each child before its own code: ends it when the supervisor is gone, however that ended. The channel to the
 * supervisor is all it knows; no program of the project needs to know of it.
 */
if (process.channel) {
  process.on('disconnect', () => process.kill(process.pid, 'SIGTERM'));
  // By itself the channel must not keep a program alive that has nothing left to do.
  process.channel.unref();
}
