/** The channel `file`: a question says what is sent, the answer from where on, and a last line that it is there. */
import { type Asked, DriverError, type Message } from '#libs/drivers/contract';
import { arrivedOf, type FileWord, receiveFile } from './files.js';

const mostBytes = 1024 ** 5;

export async function takeFile(
  path: string,
  question: Message,
  asked: Asked,
  arrived: () => Promise<void>,
  isThere = false,
): Promise<void> {
  const word = wordFrom(question);
  const offset = isThere ? word.sizeBytes : await arrivedOf(path, word);
  if (offset > word.sizeBytes) throw new DriverError('transfer_broken', 'More has arrived than was announced.');
  const stream = await asked.accept({ offset });
  if (!isThere) {
    await receiveFile(path, word, offset, stream);
    await arrived();
  }
  stream.end(`${JSON.stringify({ stored: true })}\n`);
}

function wordFrom({ sizeBytes, sha256 }: Message): FileWord {
  const isSize = typeof sizeBytes === 'number' && Number.isSafeInteger(sizeBytes) && sizeBytes >= 0;
  if (!isSize || sizeBytes > mostBytes || typeof sha256 !== 'string' || !/^[0-9a-f]{64}$/.test(sha256)) {
    throw new DriverError('transfer_broken', 'The other node does not say what it sends.', { permanent: true });
  }
  return { sizeBytes, sha256 };
}
