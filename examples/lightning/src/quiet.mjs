// Imported first: LDK's bindings print to standard output, which here is for answers alone.

console.log = console.error;
