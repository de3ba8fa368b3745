// A peer: a bare Express handler that parses a callback, stores nothing, and says 200.
const express = require("express");

const app = express();
app.post("/video-callback/:token", express.json(), (request, response) => {
  response.json({ status: "received" });
});
const server = app.listen(Number(process.argv[2]), "127.0.0.1");
server.keepAliveTimeout = 600000;
