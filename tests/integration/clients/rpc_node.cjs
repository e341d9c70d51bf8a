// Calls the service as a Node program would, once with the .proto files and once with nothing but
// reflection, and prints what came back as JSON.
//
// node rpc_node.cjs TARGET PROTO_FOLDER... ; NODE_PATH names the modules.
const crypto = require('node:crypto');

const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const [target, ...includeDirs] = process.argv.slice(2);
const OPTIONS = {longs: String, enums: String, keepCase: true, includeDirs};
const insecure = grpc.credentials.createInsecure();

const call = (client, method, request) =>
  new Promise((resolve) =>
    client[method](request, (error, response) =>
      resolve(
        error
          ? {
              code: grpc.status[error.code],
              details: error.details,
              status: error.metadata.get('grpc-status-details-bin').length,
            }
          : response,
      ),
    ),
  );

async function run(definition, phone) {
  const {CreditService} = grpc.loadPackageDefinition(definition).credit_service.v1;
  const client = new CreditService(target, insecure);
  const registered = await call(client, 'RegisterCustomer', {
    request_id: crypto.randomUUID(),
    first_name: 'Asha',
    last_name: 'Rao',
    age: 30,
    monthly_income: {units: 50000},
    phone_number: phone,
  });
  const customer_id = registered.customer.customer_id;
  const ask = {
    customer_id,
    loan_amount: {currency_code: 'INR', units: 100000},
    interest_rate: {value: '12.5'},
    tenure_months: 12,
  };
  const answers = {
    registered,
    check: await call(client, 'CheckEligibility', ask),
    loan: await call(client, 'CreateLoan', {request_id: crypto.randomUUID(), ...ask}),
    bad: await call(client, 'CheckEligibility', {...ask, tenure_months: 481}),
  };
  client.close();
  return answers;
}

// The protocol of reflection, as much of it as is asked here.
const REFLECTION = protobuf.parse(`
  syntax = "proto3";
  message Request { string file_containing_symbol = 4; }
  message Files { repeated bytes file_descriptor_proto = 1; }
  message Response { Files file_descriptor_response = 4; }`, {keepCase: true}).root;

function reflected(version, symbol) {
  const [Request, Response] = ['Request', 'Response'].map((name) => REFLECTION.lookupType(name));
  const Reflection = grpc.makeGenericClientConstructor({
    info: {
      path: `/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`,
      requestStream: true,
      responseStream: true,
      requestSerialize: (value) => Buffer.from(Request.encode(value).finish()),
      requestDeserialize: (data) => Request.decode(data),
      responseSerialize: (value) => Buffer.from(Response.encode(value).finish()),
      responseDeserialize: (data) => Response.decode(data),
    },
  });
  return new Promise((resolve, reject) => {
    const client = new Reflection(target, insecure);
    const stream = client.info();
    stream.on('error', reject);
    stream.on('data', (answer) => {
      // A FileDescriptorSet is its files, each behind the key of field 1.
      const writer = protobuf.Writer.create();
      for (const file of answer.file_descriptor_response.file_descriptor_proto) {
        writer.uint32(10).bytes(file);
      }
      stream.end();
      resolve(protoLoader.loadFileDescriptorSetFromBuffer(Buffer.from(writer.finish()), OPTIONS));
    });
    stream.on('end', () => client.close());
    stream.write({file_containing_symbol: symbol});
  });
}

(async () => {
  const answers = {
    protos: await run(
      protoLoader.loadSync('credit_service/v1/credit_service.proto', OPTIONS),
      '98765 00001',
    ),
  };
  for (const [version, phone] of [['v1', '98765 00002'], ['v1alpha', '98765 00003']]) {
    const definition = await reflected(version, 'credit_service.v1.CreditService');
    answers[version] = await run(definition, phone);
  }
  console.log(JSON.stringify(answers));
})();
