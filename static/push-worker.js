// Shows what is pushed: {"title", "body"}; a link in the text is opened by a click.

self.addEventListener("push", (event) => {
  const { title, body } = event.data.json();
  event.waitUntil(self.registration.showNotification(title, { body, icon: "/static/icon.svg" }));
});

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  const link = /https?:\/\/\S+/.exec(event.notification.body);
  if (link) event.waitUntil(self.clients.openWindow(link[0]));
});
