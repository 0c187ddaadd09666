import { type AvroType, branchName, type EnumType, type Field, parseAvro, type RecordType, unqualified } from './schema.ts';

export interface AvroTypeScriptOptions {
  /** What the schema's own type is called. Default: the schema's name, or "Value" where it has none. */
  readonly name?: string;
  /** Texts of the schemas that this one refers to. */
  readonly references?: readonly string[];
  /** Names that the module uses for something else, such as its imports. */
  readonly reserved?: readonly string[];
}

export interface AvroTypeScript {
  /** The name of what `send()` takes. The same as `outputType` where nothing is optional on write. */
  readonly inputType: string;
  /** The name of what a consumer gets. */
  readonly outputType: string;
  /** Exported declarations, without an import; ends with a newline. The same text for the same schema. */
  readonly code: string;
}

type Side = 'input' | 'output';

/** TypeScript types of the values that `avroCodec` takes and returns: what is optional on write (a default) is so in the input type only, bytes are any Uint8Array on write and Buffers on
 *  read, longs are bigint, unions stand wrapped or not as the codec has them. Throws SCHEMA_INVALID. */
export function avroTypeScript(text: string, options: AvroTypeScriptOptions = {}): AvroTypeScript {
  const root = parseAvro(text, options.references ? { references: options.references } : {});
  const emitter = new Emitter(root, options);
  return emitter.emit();
}

// What emitted code itself refers to.
const usedGlobals = ['Buffer', 'Uint8Array', 'Record'];

class Emitter {
  readonly #root: AvroType;
  readonly #declared: readonly (RecordType | EnumType)[];
  readonly #taken: Set<string>;
  readonly #output = new Map<AvroType, string>();
  readonly #input = new Map<AvroType, string>();
  readonly #differing: ReadonlySet<AvroType>;
  readonly #alias: { input: string; output: string } | undefined;

  constructor(root: AvroType, { name, reserved = [] }: AvroTypeScriptOptions) {
    this.#root = root;
    this.#declared = declaredIn(root);
    this.#taken = new Set([...usedGlobals, ...reserved]);
    this.#differing = differing(this.#declared);
    const rootIsDeclared = root.kind === 'record' || root.kind === 'enum';
    if (rootIsDeclared && name !== undefined) this.#output.set(root, this.#take(name));
    const alias = rootIsDeclared ? undefined : this.#take(name ?? 'Value');
    this.#nameAll();
    if (alias !== undefined) this.#alias = { output: alias, input: this.#differs(root) ? this.#take(`${alias}Input`) : alias };
  }

  emit(): AvroTypeScript {
    const parts: string[] = [];
    if (this.#alias) {
      const { input, output } = this.#alias;
      parts.push(`export type ${output} = ${this.#text(this.#root, 'output')};\n`);
      if (input !== output) parts.push(`export type ${input} = ${this.#text(this.#root, 'input')};\n`);
    }
    for (const type of this.#declared) {
      if (type.kind === 'enum') {
        parts.push(`${docOf([type.doc], '')}export type ${this.#output.get(type)} = ${type.symbols.map((s) => `'${s}'`).join(' | ')};\n`);
        continue;
      }
      parts.push(this.#record(type, 'output'));
      if (this.#differing.has(type)) parts.push(this.#record(type, 'input'));
    }
    return {
      inputType: this.#alias?.input ?? this.#nameOf(this.#root, 'input'),
      outputType: this.#alias?.output ?? this.#nameOf(this.#root, 'output'),
      code: parts.join('\n'),
    };
  }

  /** A short name where it is the only one of its kind, else all that share it are named with their namespaces: so that a name doesn't depend on the order of declarations. */
  #nameAll(): void {
    const groups = Map.groupBy(this.#declared, (type) => capital(unqualified(type.name)));
    for (const type of this.#declared) {
      if (this.#output.has(type)) continue;
      const short = capital(unqualified(type.name));
      const alone = groups.get(short)?.length === 1 && !this.#taken.has(short);
      this.#output.set(type, this.#take(alone ? short : type.name.split('.').map(capital).join('')));
    }
    for (const type of this.#declared) if (this.#differing.has(type)) this.#input.set(type, this.#take(`${this.#output.get(type)}Input`));
  }

  #take(wanted: string): string {
    let name = wanted;
    for (let n = 2; this.#taken.has(name); n++) name = `${wanted}_${n}`;
    this.#taken.add(name);
    return name;
  }

  #record(type: RecordType, side: Side): string {
    const name = this.#nameOf(type, side);
    const note = side === 'input' ? `What is written as ${this.#nameOf(type, 'output')}: fields with a default may be left out.` : undefined;
    const doc = docOf([type.doc, note], '');
    if (type.fields.length === 0) return `${doc}export type ${name} = Record<string, never>;\n`;
    const fields = type.fields.map((field) => {
      const optional = side === 'input' && field.makeDefault !== undefined;
      return `${docOf([field.doc, notesOf(field)], '  ')}  readonly ${field.name}${optional ? '?' : ''}: ${this.#text(field.type, side)}${optional ? ' | undefined' : ''};\n`;
    });
    return `${doc}export interface ${name} {\n${fields.join('')}}\n`;
  }

  #nameOf(type: AvroType, side: Side): string {
    return (side === 'input' ? this.#input.get(type) : undefined) ?? this.#output.get(type) ?? '';
  }

  #differs(type: AvroType): boolean {
    return partsOf(type).some((part) => part.kind === 'bytes' || part.kind === 'fixed' || this.#differing.has(part));
  }

  #text(type: AvroType, side: Side): string {
    switch (type.kind) {
      case 'record':
      case 'enum':
        return this.#nameOf(type, side);
      case 'int':
      case 'float':
      case 'double':
        return 'number';
      case 'long':
        return 'bigint';
      case 'bytes':
      case 'fixed':
        return side === 'input' ? 'Uint8Array' : 'Buffer';
      case 'array': {
        const items = this.#text(type.items, side);
        return `readonly ${/^\w+$/.test(items) ? items : `(${items})`}[]`;
      }
      case 'map':
        return `{ readonly [key: string]: ${this.#text(type.values, side)} }`;
      case 'union':
        return type.branches
          .map((b) => {
            const branch = this.#text(b, side);
            return type.wrapped && b.kind !== 'null' ? `{ readonly ${propertyName(branchName(b))}: ${branch} }` : branch;
          })
          .join(' | ');
      default:
        return type.kind;
    }
  }
}

function propertyName(name: string): string {
  return name.includes('.') ? `'${name}'` : name;
}

function capital(name: string): string {
  return name.charAt(0).toUpperCase() + name.slice(1);
}

/** A type and, through arrays, maps and unions but not through records, what it is made of. */
function partsOf(type: AvroType): readonly AvroType[] {
  switch (type.kind) {
    case 'array':
      return [type, ...partsOf(type.items)];
    case 'map':
      return [type, ...partsOf(type.values)];
    case 'union':
      return [type, ...type.branches.flatMap(partsOf)];
    default:
      return [type];
  }
}

/** Records and enums, in the order in which a reader of the schema meets them. */
function declaredIn(root: AvroType): readonly (RecordType | EnumType)[] {
  const found = new Set<RecordType | EnumType>();
  const visit = (type: AvroType): void => {
    for (const part of partsOf(type)) {
      if ((part.kind !== 'record' && part.kind !== 'enum') || found.has(part)) continue;
      found.add(part);
      if (part.kind === 'record') for (const field of part.fields) visit(field.type);
    }
  };
  visit(root);
  return [...found];
}

/** The records that look different on write, themselves or in what they hold: a least fixed point, since they may hold each other. */
function differing(declared: readonly AvroType[]): ReadonlySet<AvroType> {
  const found = new Set<AvroType>();
  for (let before = -1; before !== found.size; ) {
    before = found.size;
    for (const type of declared) {
      if (type.kind !== 'record' || found.has(type)) continue;
      const differs = (field: Field) =>
        field.makeDefault !== undefined || partsOf(field.type).some((part) => part.kind === 'bytes' || part.kind === 'fixed' || found.has(part));
      if (type.fields.some(differs)) found.add(type);
    }
  }
  return found;
}

/** What the type alone doesn't say. */
function notesOf(field: Field): string | undefined {
  const notes: string[] = [];
  for (const part of partsOf(field.type)) {
    if (part.kind === 'fixed') notes.push(`${part.name}, ${part.size} bytes.`);
    if ('logical' in part && part.logical !== undefined) notes.push(`${part.logical}, as its underlying ${part.kind}.`);
    if (part.kind === 'int' || part.kind === 'float') notes.push(part.kind === 'int' ? 'A 32-bit integer.' : 'A 32-bit float.');
  }
  if (field.makeDefault) notes.push(`Default: ${JSON.stringify(field.defaultJson, (_key, v) => (typeof v === 'bigint' ? `${v}` : v))}.`);
  return notes.length === 0 ? undefined : [...new Set(notes)].join(' ');
}

function docOf(texts: readonly (string | undefined)[], indent: string): string {
  const lines = texts
    .flatMap((text) => (text ?? '').split(/\r\n|[\n\r\u2028\u2029]/))
    .map((line) => line.trimEnd().replaceAll('*/', '*\\/'))
    .filter((line, i, all) => line !== '' || (i > 0 && i < all.length - 1 && all[i - 1] !== ''));
  if (lines.length === 0) return '';
  if (lines.length === 1) return `${indent}/** ${lines[0]?.trim()} */\n`;
  return `${indent}/**\n${lines.map((line) => `${indent} * ${line}`.trimEnd()).join('\n')}\n${indent} */\n`;
}
