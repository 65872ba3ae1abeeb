// Receives Fanfare's webhooks: checks the signature, takes each delivery once, answers.
//
//     WEBHOOK_SECRET=whsec_... dotnet run
//
// .NET 8 or later, no packages. Put your work into `Take`.
using System.Collections.Concurrent;
using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;

var secret = Environment.GetEnvironmentVariable("WEBHOOK_SECRET") ?? throw new InvalidOperationException("set WEBHOOK_SECRET");
var port = Environment.GetEnvironmentVariable("PORT") ?? "8000";
const int ToleranceSeconds = 5 * 60;
const int BodyMaxBytes = 1024 * 1024;
const int Remembered = 100_000;

// How each delivery went or goes, by webhook-id; where it must outlast a restart, a table with a unique key.
var taken = new ConcurrentDictionary<string, Lazy<Task>>();
var order = new ConcurrentQueue<string>();

var builder = WebApplication.CreateBuilder(args);
builder.WebHost.UseUrls($"http://127.0.0.1:{port}"); // behind what speaks TLS
builder.WebHost.ConfigureKestrel(kestrel => kestrel.Limits.MaxRequestBodySize = BodyMaxBytes); // 413 beyond
var app = builder.Build();
app.MapMethods("/{**path}", new[] { "POST", "PUT", "PATCH", "DELETE" }, async (HttpRequest request) =>
{
    using var buffer = new MemoryStream();
    await request.Body.CopyToAsync(buffer);
    var body = buffer.ToArray();
    if (!IsSigned(request.Headers, body)) return Results.StatusCode(401);
    try
    {
        await TakeOnce(request.Headers["webhook-id"].ToString(), body);
        return Results.Ok();
    }
    catch (Exception error)
    {
        Console.WriteLine($"not taken: {error.Message}");
        return Results.StatusCode(500);
    }
});
app.Run();

// What you do with it, within the 15 s that Fanfare waits. Throw, and it comes again.
Task Take(JsonElement data)
{
    if (data.TryGetProperty("entity", out var entity)) // Capturi's payload `full`
        Console.WriteLine($"full {data.GetProperty("event")} {entity.GetProperty("uid")}");
    else if (data.TryGetProperty("uid", out var uid)) // its payload `identity`: fetch the rest by the uid
        Console.WriteLine($"identity {data.GetProperty("event")} {uid}");
    else // any other catalog's
        Console.WriteLine($"other {(data.TryGetProperty("type", out var type) ? type : data.GetProperty("event"))}");
    return Task.CompletedTask;
}

// Whether it comes from who knows the secret, and is no recording (standardwebhooks.com).
bool IsSigned(IHeaderDictionary headers, byte[] body)
{
    var timestamp = headers["webhook-timestamp"].ToString();
    if (!long.TryParse(timestamp, NumberStyles.None, CultureInfo.InvariantCulture, out var sent)) return false;
    if (Math.Abs((decimal)DateTimeOffset.UtcNow.ToUnixTimeSeconds() - sent) > ToleranceSeconds) return false;
    var key = secret.StartsWith("whsec_", StringComparison.Ordinal) ? Convert.FromBase64String(secret[6..]) : Encoding.UTF8.GetBytes(secret);
    var head = Encoding.Latin1.GetBytes($"{headers["webhook-id"]}.{timestamp}.");
    var expected = Encoding.Latin1.GetBytes("v1," + Convert.ToBase64String(HMACSHA256.HashData(key, head.Concat(body).ToArray())));
    // While a secret is being rotated both sign: one that fits is enough.
    return headers["webhook-signature"].ToString().Split(' ')
        .Any(signature => CryptographicOperations.FixedTimeEquals(Encoding.Latin1.GetBytes(signature), expected));
}

// Takes it; a repeat waits until it is known how the first went.
async Task TakeOnce(string delivery, byte[] body)
{
    var first = new Lazy<Task>(() => Take(JsonSerializer.Deserialize<JsonElement>(body)));
    var going = taken.GetOrAdd(delivery, first);
    if (ReferenceEquals(going, first))
    {
        order.Enqueue(delivery);
        if (order.Count > Remembered && order.TryDequeue(out var oldest)) taken.TryRemove(oldest, out _);
    }
    try
    {
        await going.Value;
    }
    catch
    {
        taken.TryRemove(new KeyValuePair<string, Lazy<Task>>(delivery, going));
        throw;
    }
}
