/** What users write and read of a port forward. */
import { IsIn, IsInt, Max, Min } from 'class-validator';
import { Describe, Optional, Reference } from '#libs/openapi';
import { CoreCreate } from '#libs/resources';

export class PortforwardCreate extends CoreCreate {
  @Reference('publicaddress', 'Where it is reached.')
  publicAddress!: string;

  @Describe('Protocol of the port.', { example: 'tcp' })
  @IsIn(['tcp', 'udp'])
  protocol!: 'tcp' | 'udp';

  @Describe('The port from outside.', { example: 443 })
  @IsInt()
  @Min(1)
  @Max(65_535)
  port!: number;

  @Reference('instance', 'The machine that it leads to.')
  instance!: string;

  @Reference('network', 'Which of the machine’s networks it goes over; default: that of its first interface.')
  @Optional()
  network?: string;

  @Describe('The port of the machine; default: the same.', { example: 8443 })
  @Optional()
  @IsInt()
  @Min(1)
  @Max(65_535)
  targetPort?: number;
}

/** What a changed one must look like as a whole. */
export class PortforwardUpdate extends PortforwardCreate {}

export class PortforwardView extends PortforwardCreate {
  @Describe('The address from outside.', { readOnly: true, example: '203.0.113.7' })
  ip!: string;
}
