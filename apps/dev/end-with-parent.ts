/**
 * Loaded into each child before its own code: ends it when the supervisor is gone, however that ended. The channel to the
 * supervisor is all it knows; no program of the project needs to know of it.
 */
const end = () => process.kill(process.pid, 'SIGTERM');

// `send` is there from the start where there is a channel, and stays when the other side has gone already.
if (process.send !== undefined) {
  if (process.connected) process.on('disconnect', end);
  else end();
  // By itself the channel must not keep a program alive that has nothing left to do.
  process.channel?.unref();
}
