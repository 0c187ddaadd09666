export { avroCodec } from './avro/codec.ts';
export { selfContained } from './avro/inline.ts';
export { type AvroTypeScript, type AvroTypeScriptOptions, avroTypeScript } from './avro/typescript.ts';
export { fingerprint } from './fingerprint.ts';
export { grantIds, localIds, registryIds, type SchemaIds, type WriterText } from './ids.ts';
export {
  type CompatibilityLevel,
  type RegisteredSchema,
  type RegistryClient,
  type RegistryInit,
  type RegistryReference,
  registryClient,
  type SchemaFormat,
  type SchemaSource,
  type SubjectVersion,
} from './registry.ts';
export { bytesSerde, type ConfluentSerdeInit, confluentSerde, stringSerde } from './serde.ts';
