// A server that answers the first call with UNAVAILABLE, then one that does with FAILED_PRECONDITION.
import { createServer } from "node:http2";
import { CreditClient, ServiceError } from "credit-service-client";

interface Server {
  port: number;
  calls: () => number;
  close: () => void;
}

// Answers the first call with a status and the others with an empty message.
const serve = (status: number) =>
  new Promise<Server>((resolve) => {
    let calls = 0;
    const server = createServer();
    server.on("stream", (stream) => {
      calls += 1;
      const answer = calls === 1 ? status : 0;
      stream.resume();
      const headers = { ":status": 200, "content-type": "application/grpc" };
      stream.respond(headers, { waitForTrailers: true });
      stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": String(answer) }));
      if (answer === 0) stream.end(Buffer.alloc(5));
      else stream.end();
    });
    server.listen(0, "127.0.0.1", () =>
      resolve({
        port: (server.address() as { port: number }).port,
        calls: () => calls,
        close: () => server.close(),
      }),
    );
  });

for (const status of [14, 9]) {
  const server = await serve(status);
  const client = new CreditClient({ address: `127.0.0.1:${server.port}` });
  let end = "answered";
  try {
    await client.credit.createLoan({ customerId: 7n });
  } catch (error) {
    end = String((error as ServiceError).code);
  }
  console.log(status, end, server.calls());
  client.close();
  server.close();
}
try {
  new CreditClient({ address: "credit.example:443", token: "secret" });
} catch (error) {
  console.log((error as Error).name);
}
